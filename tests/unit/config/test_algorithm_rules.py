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
