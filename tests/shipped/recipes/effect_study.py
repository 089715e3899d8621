"""A small study for the tests of recipe/effect."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from recipe.effect.record import settings_by_arm
from recipe.effect.runs import StudyRunner
from recipe.effect.stages import Stages
from recipe.effect.study import Study, load_study

ROOT = Path(__file__).parents[3]
STEPS = 4
FAKE_TRAIN = (sys.executable, str(ROOT / "tests" / "fakes" / "effect_train.py"))

PRIMARY = {"metric": "critic/score/mean", "first": 3, "last": STEPS}
GRPO = {"title": "GRPO", "overrides": ["anchor=none", "rollout.samples_per_prompt=10"]}
MARS = {"title": "MARS", "overrides": ["anchor=mono", "rollout.samples_per_prompt=8"]}


def content(**changes) -> dict:
    """Of the file of a study: two arms, two dials, six seeds, three cold starts. All comparisons with the baseline that
    can be primary are, unless `primary` names others."""
    found = {
        "name": "small",
        "experiment": "quickstart",
        "primary": PRIMARY,
        "baseline": "grpo",
        "steps": STEPS,
        "budget": 10,
        "dials": [0.5, 1.0],
        "cold_starts": 3,
        "seeds": {0.5: "0-5", 1.0: "0-2"},
        "max_seed": 9999,
        "data": {"seed": 0, "train": 8, "test": 4},
        "seconds_per_run": 100.0,
        "seconds_per_stage": 600.0,
        "keep_policies": False,
        "overrides": ["tracking.rollouts_every=2"],
        "arms": {"grpo": GRPO, "mars": MARS},
    } | changes
    comparable = [name for name, arm in found["arms"].items() if not {"same_as", "not_comparable"} & {*arm}]
    arms = [name for name in comparable if name != found["baseline"]]
    return found | {"primary": {"arms": arms, "dials": found["dials"]} | found["primary"]}


def study_file(folder: Path, **changes) -> Path:
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


def small_study(folder: Path, **changes) -> Study:
    return load_study(study_file(folder, **changes))


def runner(study: Study, out: Path) -> StudyRunner:
    """With a program in the place of mars.main, and rows and cold starts that are there."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        (out / "data" / f"{part}.parquet").touch()
    if not (out / "data" / "rows.json").exists():
        Stages(study, out).note_rows()
    for dial in study.dials:
        for number in range(1, study.cold_starts + 1):
            (out / "shipped" / f"{dial:g}_{number}").mkdir(parents=True, exist_ok=True)
    return StudyRunner(Stages(study, out, out / "shipped"), settings_by_arm(study, list(study.arms)), FAKE_TRAIN)
