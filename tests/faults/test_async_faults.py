"""Runs that sample ahead whose driver, engine and rank die in the overlap: they compute what they would have anyway."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mars.run_dir.events import read_events
from tests.faults.test_resume import ALGORITHMS, Ended, rows, saved_steps, weights
from tests.integration.workshop import TIMEOUT_S, Workshop, start

SMALL = (
    *ALGORITHMS["dapo"], "schedule=asynchronous", "rollout.max_staleness=2", "rollout=hf", "data.prompts_per_step=2",
    "actor.prompts_per_update=2", "rollout.samples_per_prompt=2", "rollout.max_response_tokens=8", "run.num_steps=6",
    "checkpoint.every=1", "actor.num_workers=1", "cluster.object_store_bytes=100000000",
)  # fmt: skip


def run(
    workshop: Workshop, run_dir: Path, *overrides: str, when_stopped: signal.Signals | None = None, **faults: str
) -> Ended:
    """when_stopped: sent to the driver where its fault has stopped it, before it goes on."""
    output = run_dir.with_name(f"{run_dir.name}.output")
    output.mkdir(exist_ok=True)
    arguments = ["-m", "mars.main", *workshop.overrides(), *SMALL, f"run.dir='{run_dir}'", *overrides]
    process = start(arguments, run_dir.parent, output, **faults)
    code = process.wait(TIMEOUT_S)
    if code is None and when_stopped is not None:
        os.kill(process.pid, when_stopped)
        os.kill(process.pid, signal.SIGCONT)
        code = process.wait(TIMEOUT_S)
    assert code is not None, process.stderr
    return Ended(run_dir, code, process.stderr)


@pytest.fixture(scope="module")
def undisturbed(workshop: Workshop, tmp_path_factory) -> Path:
    ended = run(workshop, tmp_path_factory.mktemp("whole") / "run")
    assert ended.exit_code == 0, ended.stderr[-3000:]
    return ended.run_dir


def test_undisturbed_runs_train_on_older_weights(undisturbed):
    """So the test below is about a state with responses that were sampled ahead, and with carried ones among them."""
    found = rows(undisturbed)
    assert [row["rollout/staleness_max"] for row in found][:2] == [0, 1]
    assert 2 in [row["rollout/staleness_max"] for row in found], "a carried prompt was trained on"


def test_a_driver_that_ends_in_the_overlap_changes_nothing(workshop, undisturbed, tmp_path):
    """A signal comes in the update; then the driver is killed in the update, and in the sampling beside it."""
    run_dir = tmp_path / "run"
    signalled = run(
        workshop, run_dir, "checkpoint.every=100", MARS_FAULT="step.updated:stop@2", when_stopped=signal.SIGTERM
    )
    assert signalled.exit_code == 75, signalled.stderr[-3000:]
    assert saved_steps(run_dir) == [2], "the step is finished, and what it sampled ahead is saved with it"
    for fault in ("step.updated:kill@1", "step.samples:kill@2"):
        killed = run(workshop, run_dir, "run.resume=true", MARS_FAULT=fault)
        assert killed.exit_code == -signal.SIGKILL, killed.stderr[-3000:]
        assert saved_steps(run_dir) == [2], fault
    ended = run(workshop, run_dir, "run.resume=true")
    assert ended.exit_code == 0, ended.stderr[-3000:]
    assert rows(run_dir) == rows(undisturbed)
    assert weights(run_dir) == weights(undisturbed)


def test_a_signal_in_the_overlap_does_not_wait_for_an_engine_that_does_not_answer(workshop, undisturbed, tmp_path):
    """For longer than half the grace time. The update is saved. The resumed run samples for step 2 anew, with weights
    that the undisturbed one did not have yet."""
    run_dir, answers = tmp_path / "run", int(rows(undisturbed)[0]["mars/rounds"])  # one for each round
    signalled = run(
        workshop, run_dir, "checkpoint.every=100", "checkpoint.grace_s=20", "run.num_steps=2",
        when_stopped=signal.SIGTERM,
        MARS_FAULT=f"engine.samples:stop@{answers + 1},step.updated:stop@1",
    )  # fmt: skip
    assert signalled.exit_code == 75, signalled.stderr[-3000:]
    assert saved_steps(run_dir) == [1]
    assert "step 2 is not sampled ahead" in (run_dir / "mars.log").read_text()
    ended = run(workshop, run_dir, "run.resume=true", "run.num_steps=2")
    assert ended.exit_code == 0, ended.stderr[-3000:]
    first, second = rows(run_dir)
    assert first == rows(undisturbed)[0]
    assert second["rollout/staleness_mean"] < rows(undisturbed)[1]["rollout/staleness_mean"] == 1, "one is carried"


def test_engines_and_ranks_that_are_lost_in_the_overlap_change_nothing(workshop, undisturbed, tmp_path):
    """The engine dies and fails while it samples ahead, and dies when it gets weights; the rank dies before an update
    and after one, while the engine samples."""
    faults = ("engine.samples:kill@2", "engine.samples:raise@3", "engine.load_weights:kill@3",
              "actor.before_update:kill@3", "actor.after_update:kill@2")  # fmt: skip
    once = tmp_path / "once"
    once.mkdir()
    ended = run(workshop, tmp_path / "run", MARS_FAULT=",".join(faults), MARS_FAULT_ONCE=str(once))
    assert ended.exit_code == 0, ended.stderr[-3000:]
    assert {path.name for path in once.iterdir()} == set(faults)
    assert rows(ended.run_dir) == rows(undisturbed)
    assert weights(ended.run_dir) == weights(undisturbed)
    events = [entry["event"] for entry in read_events(ended.run_dir)]
    assert events.count("trainer_rebuilt") == 2
    assert events.count("worker_replaced") == 3 + 2
