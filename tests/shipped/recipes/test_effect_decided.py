"""recipe/effect: what decides about a study's results cannot be changed once a run has ended."""

from __future__ import annotations

import pytest

from mars.errors import ConfigError, DataError
from recipe.effect.decided import additions, check_decided, keep_study
from recipe.effect.record import RunRecord, write_record
from recipe.effect.study import load_study
from tests.shipped.recipes.effect_study import GRPO, MARS, PRIMARY, content, study_file

STEPS = {"first": 3, "last": 4}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def keep(tmp_path, out, **changes):
    primary = PRIMARY | {"dials": [0.5]} | changes.pop("primary", {})
    file = study_file(tmp_path, primary=primary, **changes)
    study = load_study(file)
    keep_study(file, study, out)
    return study


def end_a_run(out, state="finished"):
    folder = out / "runs" / "0.5" / "mars" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, RunRecord(state, "mars", 0.5, 1, 2, {}, []))


@pytest.mark.parametrize("state", ["finished", "refused"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"seed": 5007, "train": 8, "test": 4}}, r"data\.seed: .*it was 0; got 5007"),
        ({"data": {"seed": 0, "train": 9, "test": 4}}, r"data\.train: .*it was 8; got 9"),
        ({"primary": {"metric": "critic/score/max", **STEPS}}, r"primary\.metric: .*it was 'critic/score/mean'"),
        ({"primary": {"metric": "critic/score/mean", "first": 4, "last": 4}}, r"primary\.first: "),
        ({"primary": {"dials": [0.5, 1.0]}}, r"primary\.dials: .*it was \[0\.5\]; got \[0\.5, 1\.0\]"),
        ({"budget": 8}, r"budget: .*it was 10; got 8"),
        ({"baseline": "mars"}, r"baseline: "),
        ({"cold_starts": 2}, r"cold_starts: "),
        ({"max_seed": 8000}, r"max_seed: "),
        ({"seeds": {0.5: "0-4", 1.0: "0-2"}}, r"seeds\.0\.5: .*it was \[0, 1, 2, 3, 4, 5\]; got \[0, 1, 2, 3, 4\]"),
        ({"dials": [0.5], "seeds": {0.5: "0-5"}}, r"seeds\.1: .*it was \[0, 1, 2\]; got not there"),
        ({"arms": {"grpo": GRPO}}, r"arms\.mars\.[a-z_]+: .*got not there"),
        (
            {"arms": {"grpo": GRPO, "mars": {**MARS, "metric": "critic/score/max"}}},
            r"arms\.mars\.metric: .*it was null",
        ),
        ({"arms": {"grpo": GRPO, "mars": {**MARS, "title": "x"}}}, r"arms\.mars\.title: .*got 'x'"),
        ({"arms": {"grpo": {**GRPO, "controls": ["mars"]}, "mars": MARS}}, r"arms\.grpo\.controls: .*got \['mars'\]"),
        ({"arms": {"grpo": GRPO, "mars": {**MARS, "rollouts": 8}}}, r"arms\.mars\.rollouts: "),
        ({"arms": {"grpo": GRPO, "mars": {**MARS, "uneven": True}}}, r"arms\.mars\.uneven: "),
        ({"arms": {"grpo": GRPO, "mars": {**MARS, "not_comparable": "x"}}}, r"arms\.mars\.not_comparable: "),
    ],
)
def test_a_change_is_refused_with_its_key_once_a_run_has_ended(tmp_path, out, state, changes, message):
    keep(tmp_path, out)
    end_a_run(out, state)
    before = (out / "study.yaml").read_text()
    with pytest.raises(ConfigError, match=rf"^{message}(.|\n)*write these keys as they were, or give another OUT"):
        keep(tmp_path, out, **changes)
    assert (out / "study.yaml").read_text() == before


def test_until_a_run_has_ended_anything_may_change(tmp_path, out):
    keep(tmp_path, out)
    end_a_run(out, "started")
    changed = keep(tmp_path, out, budget=8, primary={"metric": "critic/score/max", **STEPS})
    end_a_run(out)
    check_decided(changed, out)
    with pytest.raises(ConfigError, match="budget"):
        keep(tmp_path, out)


def test_arms_dials_and_seeds_may_be_added_and_are_named(tmp_path, out):
    assert additions(keep(tmp_path, out), out) == []
    end_a_run(out)
    more = keep(
        tmp_path,
        out,
        arms={**content()["arms"], "new": MARS},
        primary={"arms": ["mars"]},
        dials=[0.5, 0.95, 1.0],
        seeds={0.5: "0-8", 0.95: "0", 1.0: "0-2"},
        seconds_per_run=5.0,
    )
    expected = ["arm new", "dial 0.95", "seeds 6, 7, 8 of dial 0.5"]
    assert additions(more, out) == expected
    added = content()["arms"] | {"new": MARS}
    keep(tmp_path, out, arms=added, primary={"arms": ["mars"]}, dials=more.dials, seeds=more.seeds)
    assert additions(more, out) == expected, "a further call does not forget what was there first"


def test_without_the_file_of_what_was_decided_nothing_goes_on(tmp_path, out):
    keep(tmp_path, out)
    end_a_run(out)
    (out / "study.json").unlink()
    with pytest.raises(DataError, match=r"study\.json: cannot be read .*give another OUT"):
        keep(tmp_path, out)
