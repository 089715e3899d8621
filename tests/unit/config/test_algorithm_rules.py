"""Settings of the objective that do not fit together."""

import pytest

from mars.config.load import load_config
from mars.errors import ConfigError

FULL = ["rollout.top_p=1.0"]
CAP = "algorithm.importance_cap=2.0"
MASK = "algorithm.importance_mode=mask"


def load(*overrides):
    return load_config("train", ["data.train_files=[a.parquet]", *overrides], [])


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ([*FULL, "algorithm.importance_level=sequence"],
         "algorithm.importance_level: has no effect without algorithm.importance_cap; got 'sequence'; set that to 2.0"),
        ([MASK], "algorithm.importance_mode: has no effect without algorithm.importance_cap; got 'mask'; set that"),
        (["rollout.top_p=0.9", CAP, "algorithm.importance_level=sequence"],
         "algorithm.importance_level: with rollout.top_p=0.9 and rollout.top_k=0 the engine's probabilities are above"),
        ([*FULL, "rollout.top_k=5", CAP, "algorithm.importance_level=sequence"],
         "algorithm.importance_level: with rollout.top_p=1.0 and rollout.top_k=5"),
        (["algorithm.importance_cap=0.9", MASK],
         "algorithm.importance_cap: algorithm.importance_mode=mask would leave out the weight 1"),
        ([CAP, "algorithm.importance_floor=0.5"],
         "algorithm.importance_floor: has no effect with algorithm.importance_mode=truncate; got 0.5"),
        (["rollout.top_p=0.9", CAP, MASK, "algorithm.importance_floor=0.95"],
         "algorithm.importance_floor: above rollout.top_p=0.9: it would leave out weights where engine and"),
        ([*FULL, CAP, MASK, "algorithm.importance_floor=1.01"], "algorithm.importance_floor: above rollout.top_p=1.0"),
    ],
)  # fmt: skip
def test_importance_settings_that_do_not_fit(overrides, start):
    with pytest.raises(ConfigError) as refused:
        load(*overrides)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(start)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.importance_cap=0.9"],
        [CAP, MASK],
        [CAP, MASK, "rollout.top_p=0.9", "algorithm.importance_floor=0.9", "algorithm.importance_level=sequence_mean"],
        [*FULL, CAP, MASK, "algorithm.importance_floor=1.0", "algorithm.importance_level=sequence"],
    ],
)
def test_importance_settings_that_fit(overrides):
    load(*overrides)


@pytest.mark.parametrize(
    ("bound", "overrides", "clip", "at"),
    [
        (0.18, [], "clip_low", "0.223"),  # -log(1 - 0.2)
        (0.18, ["algorithm.clip_low=0.1"], "clip_high", "0.182"),  # log(1 + 0.2)
        (0.5, ["algorithm.clip_low=0.4"], "clip_low", "0.511"),
        (1.09, ["algorithm.dual_clip=3.0"], "dual_clip", "1.1"),
        (1.6, ["algorithm=cispo"], "clip_high", "1.61"),  # not clipped below
    ],
)
def test_bounds_of_the_log_ratio_that_do_not_fit(bound, overrides, clip, at):
    with pytest.raises(ConfigError) as refused:
        load(*overrides, f"algorithm.log_ratio_bound={bound}")
    assert str(refused.value) == (
        f"algorithm.log_ratio_bound: the ratio would be cut before algorithm.{clip} is reached, at a log-ratio of "
        f"{at}; got {bound}; give more, such as 20.0"
    )


def test_the_exponential_of_the_bound_is_finite():
    with pytest.raises(ConfigError, match=r"log_ratio_bound: out of range; got 20\.5; give a number > 0 and <= 20"):
        load("algorithm.log_ratio_bound=20.5")


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.log_ratio_bound=0.23"],
        ["algorithm.dual_clip=3.0", "algorithm.log_ratio_bound=1.1"],
        ["algorithm=cispo", "algorithm.log_ratio_bound=1.62"],
        ["algorithm=gspo", "algorithm.log_ratio_bound=0.01"],
    ],
)
def test_bounds_of_the_log_ratio_that_fit(overrides):
    assert load(*overrides).algorithm.log_ratio_bound < 20


def test_a_ramp_of_the_clip_must_stay_within_the_bound():
    ramp = "{key: algorithm.clip_high, first: 0.2, last: 1.0, start: 1, steps: 5, shape: linear, slope: null}"
    with pytest.raises(ConfigError, match=r"ramps: algorithm\.clip_high: not valid .*log_ratio_bound.*got 1"):
        load("algorithm.log_ratio_bound=0.6", f"ramps=[{ramp}]")
    load("algorithm.log_ratio_bound=0.7", f"ramps=[{ramp}]")


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["algorithm.part_weights={accuracy: 1.0, kl_penalty: 1.0}"],
         "algorithm.part_weights: kl_penalty is added to the advantage without a weight; got"),
        (["algorithm.part_weights={overlong_penalty: 1.0}"], "algorithm.part_weights: overlong_penalty is added"),
        (["algorithm.part_weights={accuracy: 0.0}"], "algorithm.part_weights: the weight of accuracy is 0 or not fin"),
        (["reward=vqa", "algorithm.part_weights={accuracy: 1.0, extra_boxes: -1.0}"],
         "algorithm.part_weights: reward vqa has no part extra_boxes; got {'accuracy': 1.0, 'extra_boxes': -1.0}; name "
         "parts that every reward has; vqa: format, accuracy"),
        (["reward.functions={x: grounding, y: vqa}", "algorithm.part_weights={compat: 1.0}"],
         "algorithm.part_weights: reward vqa has no part compat; got"),
        (["algorithm=dr_grpo", "algorithm.part_weights={accuracy: 1.0}"],
         "algorithm.normalize_std: algorithm.part_weights divides each part by its standard deviation; got false; "),
        (["reward.scorer=compat", "algorithm.part_weights={accuracy: 1.0}"],
         "reward.scorer: has no effect with algorithm.part_weights: both scorers give the same parts; got 'compat'"),
    ],
)  # fmt: skip
def test_part_weights_that_do_not_fit(overrides, start):
    with pytest.raises(ConfigError) as refused:
        load(*overrides)
    assert [line for line in str(refused.value).splitlines() if line.startswith(start)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.part_weights={accuracy: 1.0, extra_boxes: -0.5, compat: 0.1, format: 2}", "reward=grounding"],
        ["algorithm.part_weights={mine: 1.0}", "reward.function=some/file.py:name"],
        ["algorithm.part_weights={accuracy: 1.0}", "reward.functions={x: grounding, y: vqa}"],
    ],
)
def test_part_weights_that_fit(overrides):
    assert load(*overrides).algorithm.part_weights


def test_no_part_is_normalised_by_default():
    assert load().algorithm.part_weights == {}
