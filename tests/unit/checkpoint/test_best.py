"""A metric in `checkpoint.keep_best` that the checkpoints do not have."""

from __future__ import annotations

import pytest

from mars.checkpoint.best import near_metrics
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import RunState
from mars.step_parts import SamplingState
from tests.builders import altered, train_config
from tests.fakes.trainer import RecordingTrainer

TRAINED = {"critic/score/mean": 0.5, "actor/pg_loss": 0.0}
EVALUATED = {**TRAINED, "eval/multi/mean": 0.5, "eval/failed": 0}


def warnings_of(tmp_path, caplog, keep_best, *steps, logged=True):
    """The warnings when one checkpoint is saved with the metrics of each step, from step 1."""
    settings = altered(train_config({"checkpoint.every": 1}).checkpoint, keep_best=keep_best)
    saving = Checkpoints(Catalogue(tmp_path), RecordingTrainer(), 1, settings, {}, "data", timeout_s=30.0)
    for number, metrics in enumerate(steps, start=1):
        saving.save_now(RunState(number, SamplingState(number, ()), metrics, logged=logged))
    return [record.getMessage() for record in caplog.records if "keep_best" in record.getMessage()]


def test_a_misspelt_metric_is_named_once_with_the_name_that_was_meant(tmp_path, caplog):
    assert warnings_of(tmp_path, caplog, "critic/scores/mean", TRAINED, TRAINED) == [
        "step 1: the step has no metric 'critic/scores/mean' (checkpoint.keep_best), so its checkpoint is not kept as "
        "the best; similar names that it has: critic/score/mean; a resumed run can be given another name"
    ]


def test_a_metric_of_evaluations_is_missed_at_the_first_evaluated_step(tmp_path, caplog):
    (warning,) = warnings_of(tmp_path, caplog, "eval/mutli/mean", TRAINED, EVALUATED)
    assert warning.startswith("step 2: the step has no metric 'eval/mutli/mean'")
    assert "similar names that it has: eval/multi/mean;" in warning


@pytest.mark.parametrize("keep_best", [None, "critic/score/mean", "eval/multi/mean"])
def test_metrics_that_the_steps_have(tmp_path, caplog, keep_best):
    assert warnings_of(tmp_path, caplog, keep_best, TRAINED, EVALUATED) == []


def test_an_interrupted_step_lacks_metrics_that_it_gets_when_the_run_goes_on(tmp_path, caplog):
    assert warnings_of(tmp_path, caplog, "fault/checkpoint", TRAINED, logged=False) == []


def test_names_of_evaluations_are_offered_where_nothing_is_spelt_alike():
    assert near_metrics("x", EVALUATED) == ["eval/failed", "eval/multi/mean"]
    assert near_metrics("x", TRAINED) == []
