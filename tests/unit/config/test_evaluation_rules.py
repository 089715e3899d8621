"""Settings of evaluations that do not fit together."""

from __future__ import annotations

import pytest

from tests.refused_settings import assert_refused, load_training

HELD_OUT = "data.eval_files=[held_out.parquet]"
BEST = "checkpoint.keep_best=eval/multi/mean"


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (
            [BEST, "data.eval_files=[]"],
            "checkpoint.keep_best: no step has this metric, because no step is evaluated: data.eval_files is empty; "
            "got 'eval/multi/mean'; set data.eval_files and evaluation.every, give a metric of the training, such as "
            "critic/score/mean, or set checkpoint.keep_best=null",
        ),
        (
            [BEST, HELD_OUT, "evaluation.every=0"],
            "checkpoint.keep_best: no step has this metric, because no step is evaluated: evaluation.every is 0",
        ),
        (
            ["evaluation.samples_per_prompt=4", "evaluation.temperature=0"],
            "evaluation.samples_per_prompt: with evaluation.temperature=0 all answers to a view are equal; got 4; give",
        ),
    ],
)
def test_settings_that_do_not_fit(overrides, start):
    assert_refused(overrides, start)


@pytest.mark.parametrize(
    "overrides",
    [
        [BEST, HELD_OUT, "evaluation.every=5"],
        ["checkpoint.keep_best=critic/score/mean", "data.eval_files=[]"],
        ["evaluation.samples_per_prompt=1", "evaluation.temperature=0"],
        ["evaluation.samples_per_prompt=4", "evaluation.temperature=0.5"],
    ],
)
def test_settings_that_fit(overrides):
    load_training(*overrides)
