"""The record in a run's folder: the settings with which the run was started, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mars.config.load import load_config
from mars.errors import ConfigError, DataError
from mars.output.files import write_atomically
from recipe.effect.plan import settings_of_arm
from recipe.effect.study import Study

RECORD_FILE = "study_run.json"
State = Literal["started", "finished", "refused"]
_OF_A_RUN = ("run.dir", "run.name", "run.seed", "run.resume", "model.path", "data.train_files", "data.eval_files")


@dataclass(frozen=True)
class RunRecord:
    """state: started (it is running, was interrupted, or failed), finished, or refused (it ended, but is not part of
    the study).

    settings: dotted key -> value, the same for all runs of an arm (`settings_by_arm`). overrides: the run's, with its
    paths. seconds: of the whole run; None for a resumed run, because the time of its earlier attempt is not known.
    rollouts_per_prompt: as counted. problem: why the run is refused. row: the run's numbers (`row_of`).
    resumed: whether the newest attempt resumed an earlier one.
    """

    state: State
    arm: str
    dial: float
    seed: int
    cold_start: int
    settings: Mapping[str, Any]
    overrides: Sequence[str]
    seconds: float | None = None
    rollouts_per_prompt: float | None = None
    problem: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    resumed: bool = False


def settings_by_arm(study: Study, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Arm -> the settings of its runs by dotted key, without those that differ from run to run (seed and paths).

    Includes the settings of the study's rows, such as study.data.seed. The settings are checked as in a run. Raises
    ConfigError with all problems.
    """
    found, problems = {}, []
    for arm in arms:
        try:
            config = load_config("train", [*settings_of_arm(study, arm), "data.train_files=[x.parquet]"], [])
        except ConfigError as error:
            problems += [f"arms.{arm}: {line}" for line in str(error).splitlines()]
        else:
            values = {key: value for key, value in config.dotted().items() if key not in _OF_A_RUN}
            found[arm] = _plain(values | study.data.dotted("study.data."))
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def changed_settings(record: RunRecord, settings: Mapping[str, Any]) -> list[str]:
    """ "key: before -> now" of each setting that differs."""
    keys = sorted({*record.settings, *settings})
    pairs = [(key, record.settings.get(key), settings.get(key)) for key in keys]
    return [f"{key}: {before} -> {now}" for key, before, now in pairs if before != now]


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record of a run. Raises SetupError."""
    write_atomically(folder / RECORD_FILE, json.dumps(_plain(asdict(record)), indent=1) + "\n")


def read_record(folder: Path) -> RunRecord | None:
    """The record of the run in a folder; None if there is none. Raises DataError for a damaged record."""
    path = folder / RECORD_FILE
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove the folder {folder} to run it again") from error


def _plain(values: Any) -> Any:
    """The values as JSON would return them, so that they compare equal to values that were written and read."""
    return json.loads(json.dumps(values, default=str))
