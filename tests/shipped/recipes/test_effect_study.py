"""recipe/effect: the file of a study, and the plan of its runs."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mars.data.prompts.views import anchor_views
from mars.errors import ConfigError
from mars.types import ImageRef
from recipe.effect.plan import ColdStart, StudyRun, estimated_seconds, overrides_of, planned_runs
from recipe.effect.record import settings_by_arm
from recipe.effect.study import load_study, parse_seeds
from tests.builders import make_prompt
from tests.shipped.recipes.effect_study import GRPO, MARS, PRIMARY, content, small_study, study_file


def test_runs_start_seed_by_seed_so_that_pairs_end_together(tmp_path):
    runs = planned_runs(small_study(tmp_path), ["grpo", "mars"], [0.5, 1.0])
    assert [run.name for run in runs[:5]] == [
        "runs/0.5/grpo/0", "runs/0.5/mars/0", "runs/1/grpo/0", "runs/1/mars/0", "runs/0.5/grpo/1",
    ]  # fmt: skip
    assert len(runs) == 2 * (6 + 3)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def test_cold_starts_are_rotated_over_the_seeds(tmp_path):
    runs = planned_runs(small_study(tmp_path), ["mars"], [0.5])
    assert [(run.seed, run.start.number) for run in runs] == [(0, 1), (1, 2), (2, 3), (3, 1), (4, 2), (5, 3)]


def test_a_pair_differs_in_nothing_but_its_arm(tmp_path):
    study = small_study(tmp_path)
    grpo, mars = (
        overrides_of(study, StudyRun(0.5, arm, 4, ColdStart(0.5, 2)), tmp_path, tmp_path / "policy")
        for arm in ("grpo", "mars")
    )
    own = {f"run.dir='{tmp_path}/runs/0.5/{arm}/4'" for arm in ("grpo", "mars")}
    assert set(grpo) ^ set(mars) == own | {*GRPO["overrides"], *MARS["overrides"]}
    assert "run.seed=4" in grpo


def test_chosen_seeds_and_an_arm_without_runs_of_its_own(tmp_path):
    same = {"title": "the same", "same_as": "mars", "note": "because"}
    study = small_study(tmp_path, arms={"grpo": GRPO, "mars": MARS, "same": same})
    runs = planned_runs(study, ["mars", "same"], [0.5, 1.0], [1, 4])
    assert [(run.dial, run.arm, run.seed) for run in runs] == [(0.5, "mars", 1), (1.0, "mars", 1), (0.5, "mars", 4)]


def test_with_two_sources_all_but_one_shows_what_mono_shows():
    """Why the arm all_but_one of the shipped study has no runs."""
    image = ImageRef("x.png", (8, 8), "rgb8")
    prompt = make_prompt(images=[image, image], names=["visible", "infrared"])
    assert set(anchor_views(prompt, "all_but_one")) == set(anchor_views(prompt, "mono"))


def test_the_estimate_uses_what_was_timed(tmp_path):
    study = small_study(tmp_path)
    runs = planned_runs(study, ["grpo", "mars"], [1.0])
    # 3 runs of 40 s, 3 of 100 s, one stage of 600 s, on 2 cores.
    assert estimated_seconds(study, runs, 1, 2, {"grpo": 40.0}) == (120 + 300 + 600) / 2


@given(st.sets(st.integers(0, 200), min_size=1))
def test_seeds_are_read_back(seeds):
    text = ",".join(map(str, sorted(seeds, reverse=True)))
    assert parse_seeds(text, 200, "seeds") == sorted(seeds)


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-2-3", "-1", "1,,2", "1.5"])
def test_other_texts_are_no_seeds(text):
    with pytest.raises(ConfigError, match=r"^seeds\.0\.5: no seeds"):
        parse_seeds(text, 9999, "seeds.0.5")


def test_seeds_of_acceptance_tests_are_refused(tmp_path):
    study = small_study(tmp_path, seeds={0.5: "9998-10001", 1.0: "0"})
    with pytest.raises(ConfigError, match=r"seeds\.0\.5: .*kept for acceptance.*got 10001"):
        study.seeds_of(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none"}, r"baseline: no arm .*got 'none'"),
        (
            {"primary": {"metric": "critic/score/mean", "first": 3, "last": 5}},
            r"primary: no steps of a run; got '3 to 5'",
        ),
        ({"seeds": {0.5: "0"}}, r"seeds: want seeds for each dial"),
        ({"overrides": ["run.seed=3"]}, r"overrides: the runner sets this itself; got 'run.seed=3'"),
        ({"arms": {"grpo": GRPO, "A b": MARS}}, r"arms\.A b: no name of a folder"),
        ({"arms": {"grpo": {**GRPO, "controls": ["mars"]}}}, r"arms\.grpo: names no other arm .*got 'mars'"),
        ({"arms": {"grpo": GRPO, "x": {"title": "x", "same_as": "grpo"}}}, r"arms\.x: .*say why in note"),
        (
            {"arms": {"grpo": {**GRPO, "rolouts": 8}}},
            r"arms\.grpo\.rolouts: unknown key; got 8; did you mean rollouts\?",
        ),
        ({"steps": 0}, r"steps: input should be greater than 0; got 0; correct it"),
        ({"budgett": 10}, r"budgett: unknown key; got 10; did you mean budget\?"),
        ({"data": {"seed": 0, "train": 8, "test": 4, "x": 1}}, r"data\.x: .*the keys here are seed, train, test"),
        (
            {"primary": {**PRIMARY, "arms": ["grpo"]}},
            r"primary\.arms: cannot be primary; got \['grpo'\]; choose from \['mars'\]",
        ),
        ({"primary": {**PRIMARY, "dials": [0.95]}}, r"primary\.dials: cannot be primary; got \[0\.95\]"),
        ({"primary": {"metric": "critic/score/mean", "first": 3}}, r"primary\.last: not set; add it"),
        (
            {"seeds": {0.5: "0", 1.0: 0}},
            r'seeds\.1\.0: .*valid string; got 0; write the seeds as a text such as "0-3,7"',
        ),
        ({"max_seed": 99999}, r"max_seed: .*acceptance tests; got 99999; give at most 9999"),
        ({"data": {"seed": 20000, "train": 8, "test": 4}}, r"data\.seed: above max_seed; got 20000; give 0 to 9999"),
        (
            {"primary": {"metric": "critic/scor/mean", "first": 3, "last": 4}},
            r"primary\.metric: no metric of a training step; got 'critic/scor/mean'; did you mean critic/score/mean\?",
        ),
        ({"arms": {"grpo": GRPO, "mars": {**MARS, "metric": "eval/multi/mean"}}}, r"arms\.mars\.metric: no metric of"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        small_study(tmp_path, **changes)


@pytest.mark.parametrize(
    "metric", ["mars/anchor/infrared/mean", "reward/format/mean", "sampler/again", "actor/entropy"]
)
def test_metrics_of_any_source_part_or_sampler_may_decide(tmp_path, metric):
    study = small_study(tmp_path, primary={"metric": metric, "first": 3, "last": 4})
    assert study.primary.metric == metric


def test_a_missing_key_does_not_show_the_whole_file(tmp_path):
    given = content()
    del given["budget"]
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError) as raised:
        load_study(tmp_path / "given.yaml")
    assert str(raised.value).splitlines()[1] == "budget: not set; add it; recipe/effect/study.yaml shows how"


def test_settings_that_a_run_would_refuse_are_found_before_any_run(tmp_path):
    wrong = {**MARS, "overrides": ["anchor=mono", "rollout.top_p=2"]}
    study = small_study(tmp_path, arms={"grpo": GRPO, "mars": wrong})
    with pytest.raises(ConfigError, match=r"^arms\.mars: rollout\.top_p: "):
        settings_by_arm(study, ["grpo", "mars"])


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00"])
def test_a_file_that_is_no_study_is_refused(tmp_path, text):
    path = study_file(tmp_path)
    path.write_text(text)
    with pytest.raises(ConfigError, match="--study"):
        load_study(path)
    assert content()["name"] == "small"
