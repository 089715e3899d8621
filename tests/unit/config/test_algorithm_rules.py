"""Settings of the objective that do not fit together."""

import pytest

from mars.errors import ConfigError
from tests.refused_settings import assert_refused, load_training

FULL = ["rollout.top_p=1.0"]
CAP = "algorithm.importance_cap=2.0"
MASK = "algorithm.importance_mode=mask"


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
    assert_refused(overrides, start)


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
    load_training(*overrides)


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
        load_training(*overrides)
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
    assert load_training(*overrides).algorithm.part_weights


def test_no_part_is_normalised_by_default():
    assert load_training().algorithm.part_weights == {}
