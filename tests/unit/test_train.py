"""What happens to a run when its trainer is lost, with fakes: it goes on from the newest checkpoint, or says how to."""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import replace
from functools import partial
from threading import Event

import pytest

from mars import interrupts, process
from mars.checkpoint import saver
from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.checkpoint.resume import none_added, starting_point
from mars.data.order.stream import PromptStream
from mars.errors import CheckpointError, DataError, WorkerError, WorkerLost
from mars.fit import fit
from mars.run_dir.events import EVENTS_FILE, EventLog, read_events
from mars.train import TrainingJob, start_unless_complete, train
from tests.builders import make_prompt, train_config
from tests.fakes.step import IMAGE
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer
from tests.unit.test_fit import random_parts


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    """For the reports of ranks, which are there at once."""
    monkeypatch.setattr(saver, "_POLL_S", 0.002)


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
    loop = partial(fit, made, stream, config=config, evaluate=None, num_dropped=0)
    job = TrainingJob(config, trainer, 1, loop, lambda start: tracker, catalogue, PROMPTS, "data")
    return job, tracker


def trained(folder, trainer, num_steps=4):
    folder.mkdir()
    job, tracker = job_of(folder, trainer, num_steps)
    end = train(job, starting_point(job.catalogue, False, PROMPTS, "data", none_added))
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


# --- checkpoints that are gone, cannot be loaded or written, or are being written when the run fails


def set_aside(folder):
    (folder / CHECKPOINTS_FOLDER).rename(folder / "another disk")


def test_a_run_whose_checkpoints_are_gone_is_not_started_again(tmp_path):
    folder = tmp_path / "run"
    trained(folder, FragileTrainer(), num_steps=2)
    set_aside(folder)
    with pytest.raises(CheckpointError, match=r"no checkpoint is there, but the run got to step 2.* mount the disk"):
        resumed(folder, FragileTrainer())
    (folder / CHECKPOINTS_FOLDER).mkdir()  # where the disk was mounted
    with pytest.raises(CheckpointError, match="no checkpoint is there"):
        resumed(folder, FragileTrainer())
    (folder / CHECKPOINTS_FOLDER).rmdir()
    (folder / "another disk").rename(folder / CHECKPOINTS_FOLDER)
    assert resumed(folder, FragileTrainer())[0] == 2


def test_a_rank_that_dies_while_the_disk_of_the_checkpoints_is_away_ends_the_run(tmp_path):
    class OnAnotherDisk(FragileTrainer):
        def update(self, batch):
            if self.num_updates == 2:
                set_aside(tmp_path / "run")
            return super().update(batch)

    trainer = OnAnotherDisk(lost_at=(3,))
    with pytest.raises(CheckpointError, match="no checkpoint is there"):
        trained(tmp_path / "run", trainer)
    assert (trainer.num_updates, trainer.restarts) == (3, 0)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    job, _ = job_of(tmp_path, FragileTrainer(), num_steps=2)
    job.catalogue.events.log("started", 0, last_step=2)
    job.catalogue.events.log("checkpoint_failed", 1)
    start = job.newest()
    assert (start.state.step, start.shards, start.logged_step) == (0, None, -1)


@pytest.mark.parametrize(("finished", "last_step"), [(4, 4), (3, 4), (5, 5)])
def test_a_finished_run_without_checkpoints_is_complete_unless_it_is_to_train_on(tmp_path, caplog, finished, last_step):
    """It finishes before its last step if run.num_epochs are drawn by then."""

    def start(num_steps):
        job, _ = job_of(tmp_path, FragileTrainer(), num_steps)
        config = job.config.model_copy(update={"run": job.config.run.model_copy(update={"resume": True})})
        stream = PromptStream(list(PROMPTS.values()), 2, 0, True)
        return start_unless_complete(config, job.catalogue, stream, PROMPTS, "data", tmp_path / "policy")

    events = EventLog(tmp_path / EVENTS_FILE)
    events.log("started", 0, last_step=last_step)
    events.log("finished", finished)
    with caplog.at_level(logging.INFO):
        assert start(4) is None
    assert f"the run is complete: step {finished} was its last" in caplog.text
    with pytest.raises(CheckpointError, match="no checkpoint is there"):
        start(6)


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_record_as_it_is(tmp_path):
    class AnotherModel(FragileTrainer):
        def load_checkpoint(self, folder):
            raise CheckpointError("of another model")

    trained(tmp_path / "run", FragileTrainer(), num_steps=2)
    job, _ = job_of(tmp_path / "run", AnotherModel(), num_steps=4)
    opened = []
    with pytest.raises(CheckpointError, match="of another model"):
        train(replace(job, open_tracker=opened.append), job.newest())
    assert opened == [], "opening the tracker drops rows"


class Refusing(FragileTrainer):
    """Cannot begin the checkpoints that are named, counted over the whole run."""

    def __init__(self, refused, **faults):
        super().__init__(**faults)
        self.refused = refused

    def start_checkpoint(self, folder):
        super().start_checkpoint(folder)
        if self.num_checkpoints in self.refused:
            raise CheckpointError("no room")


def test_failed_checkpoints_are_counted_on_when_the_trainer_is_built_again(tmp_path):
    job, tracker = job_of(tmp_path, Refusing({1}, lost_at=(3,)), num_steps=4)
    train(job, starting_point(job.catalogue, False, PROMPTS, "data", none_added))
    assert job.trainer.restarts == 1
    assert {step: row["fault/checkpoint"] for step, row in tracker.metrics} == {1: 0, 2: 1, 3: 1, 4: 1}
    lost = Refusing({1, 2, 3}, lost_at=(3,))
    with pytest.raises(CheckpointError, match="3 checkpoints in a row could not be written"):
        trained(tmp_path / "third", lost)
    assert lost.restarts == 1
    between = Refusing({1, 2, 4, 5}, lost_at=(4,))  # the third is saved, though its end comes with the loss
    end, _, _ = trained(tmp_path / "between", between, num_steps=6)
    assert (end.step, between.restarts) == (6, 1)


class Fails(FragileTrainer):
    """Raises at the second update. unwritten: its checkpoints never reach the disk."""

    def __init__(self, unwritten=False):
        super().__init__(never_writes=range(9) if unwritten else ())

    def update(self, batch):
        if self.num_updates == 1:
            raise DataError("too many images are lost")
        return super().update(batch)


def test_a_run_that_fails_waits_for_the_checkpoint_that_is_being_written(tmp_path, monkeypatch):
    awaited, commit, ends_within = Event(), Catalogue.commit, saver._Writing.ends_within

    def commit_when_awaited(catalogue, manifest):
        assert awaited.wait(timeout=30)
        return commit(catalogue, manifest)

    def wait(writing, seconds):
        awaited.set()
        return ends_within(writing, seconds)

    monkeypatch.setattr(Catalogue, "commit", commit_when_awaited)
    monkeypatch.setattr(saver._Writing, "ends_within", wait)
    with pytest.raises(DataError, match="too many images"):
        trained(tmp_path / "run", Fails())
    assert [(entry["event"], entry["step"]) for entry in read_events(tmp_path / "run")] == [("checkpoint_saved", 1)]


def test_a_run_that_fails_gives_up_a_checkpoint_that_does_not_come(tmp_path, monkeypatch):
    monkeypatch.setattr(saver, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(saver, "_LOOK_S", 10.0)  # less than the deadline of the checkpoint
    with pytest.raises(DataError, match="too many images"):
        trained(tmp_path / "run", Fails(unwritten=True))
    assert [thread for thread in threading.enumerate() if thread.name == "checkpoint"] == []
    assert read_events(tmp_path / "run") == []


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
    start = starting_point(job.catalogue, True, PROMPTS, "data", none_added)
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
