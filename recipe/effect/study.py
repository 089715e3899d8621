"""The file of a study, study.yaml: what is compared, on which seeds, and by which metric, all fixed beforehand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from mars.config.problem import Problem
from mars.config.section import Section
from mars.errors import ConfigError
from recipe.effect.study_problems import field_problems, metric_problem

STUDY_FILE = Path(__file__).with_name("study.yaml")
STUDY_COPY = "study.yaml"  # in the folder of a study
SEEDS_FOR_TUNING = 5000  # seeds from here on are for choosing settings, and not for results
LARGEST_SEED = 9999  # larger seeds are kept for acceptance tests, so that nothing is chosen by them
OF_THE_RUNNER = ("run.dir", "run.seed", "run.resume", "run.num_steps", "model.path", "data.train_files")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class Primary(Section):
    """The metric that decides: the mean of a key of metrics.jsonl over the steps `first` to `last`.

    arms, dials: the comparisons that decide are those of these arms with the baseline at these dials.
    """

    metric: str
    first: PositiveInt
    last: PositiveInt
    arms: list[str]
    dials: list[float]


class DataSizes(Section):
    """The benchmark's rows. seed: of the scenes. train, test: numbers of rows."""

    seed: NonNegativeInt
    train: PositiveInt
    test: PositiveInt


class Arm(Section):
    """One method.

    overrides: of the settings of a run. rollouts: per sampled prompt, if not the study's `budget`.
    same_as: the arm whose runs this arm would repeat to the bit, so that it needs no runs.
    controls: further arms that it is compared with, besides the study's baseline.
    uneven: whether prompts may have different numbers of rollouts, whose mean in each step is `rollouts`.
    metric: a key of metrics.jsonl to use for this arm, because the primary metric does not mean the same in its runs.
    not_comparable: why metrics of the training do not compare the arm with others, for example because it chooses the
        prompts it trains on. It is then compared only by the evaluation.
    """

    title: str
    overrides: list[str] = Field(default=[])
    rollouts: PositiveInt | None = None
    same_as: str | None = None
    controls: list[str] = Field(default=[])
    uneven: bool = False
    metric: str | None = None
    not_comparable: str | None = None
    note: str | None = None

    @property
    def has_primary(self) -> bool:
        """Whether the arm has runs whose primary metric can be compared with that of other arms."""
        return self.same_as is None and self.not_comparable is None


class Study(Section):
    """experiment: of configs/experiment. overrides: of every run. seeds: dial (see README.md) -> seeds such as "0-5,8".

    budget: rollouts generated per sampled prompt, anchors included. seconds_per_run: estimate for the runs
    of an arm, until one of them has been timed. max_seed: larger seeds are refused; at most LARGEST_SEED.
    """

    name: str
    experiment: str
    overrides: list[str]
    dials: list[float]
    cold_starts: PositiveInt
    seeds: dict[float, str]
    max_seed: NonNegativeInt
    data: DataSizes
    steps: PositiveInt
    budget: PositiveInt
    baseline: str
    primary: Primary
    seconds_per_run: PositiveFloat
    seconds_per_stage: PositiveFloat
    keep_policies: bool
    arms: dict[str, Arm] = Field(min_length=1)

    def rollouts(self, arm: str) -> int:
        """Rollouts that `arm` generates per sampled prompt."""
        return self.arms[arm].rollouts or self.budget

    def seeds_of(self, dial: float) -> list[int]:
        return parse_seeds(self.seeds[dial], self.max_seed, f"seeds.{dial:g}")


def load_study(path: Path) -> Study:
    """Read the file of a study. Raises ConfigError with one line for each problem."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--study: {path} cannot be read ({error}); give a file like {STUDY_FILE.name}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--study: {path} is not the file of a study; give a file like {STUDY_FILE.name}")
    try:
        study = Study(**content)
    except ValidationError as error:
        raise _wrong(path, field_problems(Study, error)) from error
    problems = _problems(study)
    if problems:
        raise _wrong(path, problems)
    return study


def parse_seeds(text: str, max_seed: int, key: str) -> list[int]:
    """The seeds in a text such as "0-3,7", in ascending order. Raises ConfigError.

    >>> parse_seeds("7,0-2", 9999, "seeds")
    [0, 1, 2, 7]
    """
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ConfigError(str(Problem(key, "no seeds", 'give seeds such as "0-3,7"', got=text)))
        if last > max_seed:
            reason = f"seeds above max_seed={max_seed} are kept for acceptance tests, so that nothing is chosen by them"
            raise ConfigError(str(Problem(key, reason, f"give seeds from 0 to {max_seed}", got=last)))
        found.update(range(first, last + 1))
    return sorted(found)


def chosen(wanted: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    """The names in `wanted`, in the order of `known`; all of `known` if `wanted` is empty. Raises ConfigError for names
    that are not in `known`."""
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"{option}: not in the study; got {', '.join(unknown)}; choose from {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def _wrong(path: Path, problems: Sequence[Problem]) -> ConfigError:
    return ConfigError("\n".join([f"{path}: {len(problems)} problems", *map(str, problems)]))


def _problems(study: Study) -> list[Problem]:
    found = _problems_of_seeds(study)
    if study.baseline not in study.arms or study.arms[study.baseline].same_as is not None:
        found.append(Problem("baseline", "no arm with runs of its own", "name one of arms", got=study.baseline))
    if not study.primary.first <= study.primary.last <= study.steps:
        window = f"{study.primary.first} to {study.primary.last}"
        found.append(Problem("primary", "no steps of a run", f"want 1 <= first <= last <= {study.steps}", got=window))
    comparable = [n for n, arm in study.arms.items() if n != study.baseline and arm.has_primary]
    for key, names, known in (("arms", study.primary.arms, comparable), ("dials", study.primary.dials, study.dials)):
        unknown = [name for name in names if name not in known]
        if unknown:
            found.append(Problem(f"primary.{key}", "cannot be primary", f"choose from {known}", got=unknown))
    metrics = {"primary.metric": study.primary.metric}
    metrics |= {f"arms.{name}.metric": arm.metric for name, arm in study.arms.items() if arm.metric is not None}
    found += [problem for key, metric in metrics.items() if (problem := metric_problem(key, metric)) is not None]
    for key, overrides in [("overrides", study.overrides), *((n, arm.overrides) for n, arm in study.arms.items())]:
        taken = [text for text in overrides if text.partition("=")[0] in OF_THE_RUNNER]
        found += [Problem(key, "the runner sets this itself", "leave it out", got=text) for text in taken]
    for name, arm in study.arms.items():
        found += _problems_of_arm(name, arm, study)
    return found


def _problems_of_seeds(study: Study) -> list[Problem]:
    found = []
    if sorted(study.seeds) != sorted(set(study.dials)) or len(set(study.dials)) != len(study.dials):
        found.append(Problem("seeds", "want seeds for each dial", "write one line for each dial", got=study.seeds))
    if study.max_seed > LARGEST_SEED:
        reason = "larger seeds are kept for acceptance tests"
        found.append(Problem("max_seed", reason, f"give at most {LARGEST_SEED}", got=study.max_seed))
    if study.data.seed > study.max_seed:
        found.append(Problem("data.seed", "above max_seed", f"give 0 to {study.max_seed}", got=study.data.seed))
    return found


def _problems_of_arm(name: str, arm: Arm, study: Study) -> list[Problem]:
    key, found = f"arms.{name}", []
    if not _NAME.fullmatch(name):
        found.append(Problem(key, "no name of a folder", "write small letters, digits and _", got=name))
    for other in (*arm.controls, *([arm.same_as] if arm.same_as else [])):
        if other not in study.arms or other == name or study.arms[other].same_as is not None:
            found.append(Problem(key, "names no other arm with runs of its own", "name one of arms", got=other))
    if arm.same_as is not None and (arm.overrides or arm.note is None):
        found.append(Problem(key, "repeats an arm's runs", "give it no overrides, and say why in note"))
    return found
