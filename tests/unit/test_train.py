"""What happens to a run when its trainer is lost, with fakes: it goes on from the newest checkpoint, or says how to."""

from __future__ import annotations

import os
import signal

import pytest

from mars import interrupts, process
from mars.checkpoint import saver
from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.checkpoint.resume import starting_point
from mars.data.order.stream import PromptStream
from mars.errors import CheckpointError, WorkerError, WorkerLost
from mars.run_dir.events import EVENTS_FILE, EventLog, read_events
from mars.train import TrainingJob, train
from tests.builders import make_prompt, train_config
from tests.fakes.step import IMAGE
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer
from tests.unit.test_fit import random_parts


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Look after a trainer whose checkpoint is awaited at once, not after a second."""
    monkeypatch.setattr(saver, "_LOOK_S", 0.0)


PROMPTS = {f"p{i}": make_prompt(f"p{i}", [IMAGE] * 2) for i in range(5)}


class FragileTrainer(RecordingTrainer):
    """Is lost at the updates and the checkpoints that are named, each counted over the whole run."""

    def __init__(self, lost_at=(), never_writes=()) -> None:
        super().__init__()
        self.lost_at, self.never_writes = lost_at, never_writes
        self.num_updates = self.num_checkpoints = self.restarts = 0
        self.dead = False

    def update(self, batch):
        self.num_updates += 1
        if self.num_updates in self.lost_at:
            raise WorkerLost("actor-1 died")
        return super().update(batch)

    def start_checkpoint(self, folder):
        self.num_checkpoints += 1
        self.dead = self.num_checkpoints in self.never_writes
        if not self.dead:
            super().start_checkpoint(folder)

    def check_alive(self):
        if self.dead:
            raise WorkerLost("actor-0 died")

    def restart(self):
        self.restarts += 1
        self.dead = False


def job_of(folder, trainer, num_steps):
    settings = {
        "run.num_steps": num_steps,
        "run.dir": str(folder),
        "checkpoint.every": 1,
        "evaluation.before_training": False,
        "cluster.call_timeout_s": 20,
    }
    tracker = RecordingTracker()
    catalogue = Catalogue(folder / CHECKPOINTS_FOLDER, EventLog(folder / EVENTS_FILE))
    config = train_config({**settings, "evaluation.every": 0, "actor.num_workers": 1})
    stream = PromptStream(list(PROMPTS.values()), 2, 0, True)
    made = random_parts(trainer=trainer)
    return TrainingJob(config, made, stream, None, 0, lambda start: tracker, catalogue, PROMPTS, "data"), tracker


def trained(folder, trainer, num_steps=4):
    folder.mkdir()
    job, tracker = job_of(folder, trainer, num_steps)
    end = train(job, starting_point(job.catalogue, False, PROMPTS, "data"))
    events = [(entry["event"], entry["step"]) for entry in read_events(folder)]
    last = {step: metrics["actor/pg_loss"] for step, metrics in tracker.metrics}
    return end, last, [event for event in events if event[0] != "checkpoint_saved"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What `trained` returns of a run that nobody disturbs."""
    return trained(tmp_path_factory.mktemp("whole") / "run", FragileTrainer())


def test_the_trainer_is_built_again_and_steps_are_repeated(tmp_path, whole):
    end, losses, events = whole
    assert (end.step, events) == (4, [])
    trainer = FragileTrainer(lost_at=(3,))
    again, repeated, events = trained(tmp_path / "lost", trainer)
    assert (again.step, again.sampling, repeated) == (4, end.sampling, losses)
    assert trainer.restarts == 1
    assert [event for event, _ in events] == ["worker_lost", "trainer_rebuilt"]


def test_a_trainer_that_dies_while_its_last_checkpoint_is_written_is_seen_at_once(tmp_path, whole):
    """Not when the deadline of the checkpoint passes, an hour later."""
    _, losses, _ = whole
    trainer = FragileTrainer(never_writes=(4,))
    end, repeated, events = trained(tmp_path / "lost", trainer)
    assert (end.step, repeated) == (4, losses)
    assert events == [("worker_lost", 3), ("trainer_rebuilt", 3)]


def test_a_loss_that_comes_back_at_once_ends_the_run_with_the_command_that_resumes_it(tmp_path):
    trainer = FragileTrainer(lost_at=range(2, 100))
    with pytest.raises(WorkerError, match=r"actor-1 died; given up after 3 restarts in a row.*mars resume ") as caught:
        trained(tmp_path / "lost", trainer)
    assert caught.value.exit_code == 5
    assert f"`mars resume {tmp_path}/lost`" in str(caught.value)
    assert trainer.restarts == 3
    assert [entry["event"] for entry in read_events(tmp_path / "lost")].count("worker_lost") == 4


def test_progress_between_losses_gives_the_restarts_back(tmp_path):
    trainer = FragileTrainer(lost_at=(2, 4, 6, 8))
    end, _, _ = trained(tmp_path / "lost", trainer, num_steps=5)
    assert (end.step, trainer.restarts) == (5, 4)


def test_a_trainer_that_cannot_be_built_again_ends_the_run_with_the_command_that_resumes_it(tmp_path):
    class NeverBack(FragileTrainer):
        def restart(self):
            super().restart()
            raise WorkerLost(f"actor-0 died in build {self.restarts}")

    trainer = NeverBack(lost_at=(2,))
    given_up = r"actor-0 died in build 3; given up after 3 restarts in a row; .*go on with `mars resume .*/lost`"
    with pytest.raises(WorkerError, match=given_up) as caught:
        trained(tmp_path / "lost", trainer)
    assert (caught.value.exit_code, trainer.restarts) == (5, 3)
    events = [entry["event"] for entry in read_events(tmp_path / "lost")]
    assert (events.count("worker_lost"), events.count("trainer_rebuilt")) == (4, 0)


# --- signals


class Signalled(FragileTrainer):
    """Gets SIGTERM when the method of this name is called so often. It cannot begin a checkpoint while it begins one.

    slow: its last checkpoint reaches the disk only when somebody has looked after it.
    """

    def __init__(self, at, call, slow=False, **faults):
        super().__init__(**faults)
        self.at, self.left, self.slow, self.waiting, self.begins = at, call, slow, None, False

    def _arrive(self, at):
        if at == self.at:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGTERM)

    def update(self, batch):
        stats = super().update(batch)
        self._arrive("update")
        return stats

    def start_checkpoint(self, folder):
        if self.begins:
            raise CheckpointError("the previous checkpoint is still being written")
        self.begins = True
        self._arrive("start_checkpoint")
        if self.slow and self.num_checkpoints == 3:
            self.waiting = folder
        else:
            super().start_checkpoint(folder)
        self.begins = False

    def check_alive(self):
        super().check_alive()
        self._arrive("check_alive")
        if self.waiting is not None:
            folder, self.waiting = self.waiting, None
            super().start_checkpoint(folder)


def interrupted(folder, trainer, ended, monkeypatch):
    """A run that a signal ends -> its CompletedProcess."""

    def exit_now(code):
        raise SystemExit(code)

    def main():
        interrupts.set_grace(600.0)
        trained(folder, trainer)
        return 0

    monkeypatch.setattr(process, "_exit_now", exit_now)
    return ended(lambda: process.run_command(main))


def resumed(folder, trainer):
    job, tracker = job_of(folder, trainer, num_steps=4)
    start = starting_point(job.catalogue, True, PROMPTS, "data")
    end = train(job, start)
    return start.state.step, end, {step: metrics["actor/pg_loss"] for step, metrics in tracker.metrics}


@pytest.mark.parametrize(
    ("trainer", "saved"),
    [
        (Signalled("update", 3), 3),
        (Signalled("start_checkpoint", 3), 3),
        (Signalled("start_checkpoint", 4), 4),
        (Signalled("check_alive", 1, slow=True), 4),
        # The trainer is lost while the interruption saves: it is not built again, and the previous checkpoint stays.
        (Signalled("update", 3, never_writes=(3,)), 2),
    ],
)
def test_a_signal_loses_no_checkpoint_wherever_it_comes(tmp_path, whole, ended, monkeypatch, trainer, saved):
    undisturbed, losses, _ = whole
    done = interrupted(tmp_path / "run", trainer, ended, monkeypatch)
    assert (done.returncode, trainer.restarts) == (75, 0)
    assert done.stderr.splitlines()[-1].startswith("interrupted by SIGTERM; ")
    assert interrupts.reason() is None
    events = [entry["event"] for entry in read_events(tmp_path / "run")]
    assert set(events) == {"checkpoint_saved"}
    assert events.count("checkpoint_saved") == saved
    start, end, repeated = resumed(tmp_path / "run", RecordingTrainer())
    assert (start, end.step, end.sampling) == (saved, 4, undisturbed.sampling)
    assert repeated.items() <= losses.items()
    assert set(range(saved + 1, 5)) <= set(repeated) <= set(range(saved, 5))
