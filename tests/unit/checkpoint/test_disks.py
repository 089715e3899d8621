"""Checkpoints on disks that are full, slow or gone: training goes on, and what was saved before stays loadable."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import torch

from mars import faults
from mars.actor import shards
from mars.actor.shard_report import ShardReport, take_reports, write_report
from mars.actor.shards import ShardWriter
from mars.checkpoint import catalogue as catalogue_module
from mars.checkpoint import saver
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.saver import SHARDS_FOLDER, Checkpoints
from mars.checkpoint.state import RunState
from mars.errors import CheckpointError, SetupError
from mars.output.files import replacing
from mars.run_dir.events import EventLog, read_events
from mars.step_parts import SamplingState
from mars.tracking.jsonl import JsonlTracker, read_metrics
from tests.builders import train_config
from tests.fakes.trainer import RecordingTrainer

SETTINGS = train_config({"checkpoint.every": 1, "checkpoint.keep_last": 2}).checkpoint


def state(step: int) -> RunState:
    return RunState(step, SamplingState(step, ()), {"actor/pg_loss": 0.5}, logged=True)


@contextmanager
def full_disk():
    """No file can get a byte, as on a full disk: new ones are empty. A real failure of the kernel's, errno EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(tmp_path / "checkpoints", EventLog(tmp_path / "events.jsonl"))


def checkpoints(catalogue, trainer=None, num_ranks=1, timeout_s=30.0):
    return Checkpoints(catalogue, trainer or RecordingTrainer(), num_ranks, SETTINGS, {}, "data", timeout_s)


def fail_at(monkeypatch, point: str) -> None:
    monkeypatch.setattr(faults, "_passed", Counter())
    monkeypatch.setenv("MARS_FAULT", f"{point}:no_space")


def assert_three_failures(saving: Checkpoints, catalogue: Catalogue, caplog, reason: str) -> None:
    """Saving steps 2 to 4 fails; step 1 was saved before."""
    for step in (2, 3):
        saving.save_now(state(step))
        assert f"step {step}: no checkpoint: " in caplog.text
    assert saving.failures == 2
    with pytest.raises(CheckpointError, match=r"3 checkpoints in a row could not be written .*run.resume=true") as end:
        saving.save_now(state(4))
    assert (end.value.exit_code, saving.failures) == (7, 3)
    failed = [entry for entry in read_events(catalogue.folder.parent) if entry["event"] == "checkpoint_failed"]
    assert [entry["step"] for entry in failed] == [2, 3, 4]
    assert all(reason in entry["details"]["reason"] for entry in failed)
    assert list(catalogue.folder.glob(".tmp*")) == []
    assert catalogue.newest() is not None


@pytest.mark.parametrize("point", ["before_manifest", "before_rename", "before_latest"])
def test_a_full_disk_costs_checkpoints_and_at_the_third_the_run(catalogue, monkeypatch, caplog, point):
    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    fail_at(monkeypatch, f"checkpoint.{point}")
    assert_three_failures(saving, catalogue, caplog, "No space left on device")
    monkeypatch.delenv("MARS_FAULT")
    # What was renamed before LATEST failed is a whole checkpoint.
    assert catalogue.newest().manifest.step == (4 if point == "before_latest" else 1)


def test_a_disk_without_room_for_the_state(catalogue, monkeypatch, caplog):
    saving = checkpoints(catalogue)
    saving.save_now(state(1))

    def no_space(path, content):
        path.write_bytes(next(content)[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saver, "write_durably", no_space)
    assert_three_failures(saving, catalogue, caplog, "No space left on device")
    assert catalogue.steps() == [1]


class OneRankFails(RecordingTrainer):
    failing = False

    def start_checkpoint(self, folder):
        super().start_checkpoint(folder)
        error = "rank 1: OSError: No space left on device" if self.failing else None
        write_report(Path(folder), 1, ShardReport({}, error))


def test_the_failure_of_one_rank(catalogue, caplog):
    trainer = OneRankFails()
    saving = checkpoints(catalogue, trainer, num_ranks=2)
    saving.save_now(state(1))
    trainer.failing = True
    assert_three_failures(saving, catalogue, caplog, "rank 1: OSError: No space left")
    assert catalogue.steps() == [1]


def test_room_in_between_gives_three_tries_again(catalogue, monkeypatch):
    saving = checkpoints(catalogue)
    for step in range(1, 10):
        if step % 3:
            fail_at(monkeypatch, "checkpoint.before_manifest")
        else:
            monkeypatch.delenv("MARS_FAULT")
        saving.save_now(state(step))
    assert (saving.failures, catalogue.steps()) == (6, [6, 9])


def test_a_rank_on_a_full_disk_reports_with_an_empty_file(tmp_path):
    with full_disk():
        write_report(tmp_path, 0, ShardReport({}, "the disk is full"))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("rank_00000.json", 0)]
    (report,) = take_reports(tmp_path, 1)
    assert (report.files, "could not even write" in report.error) == ({}, True)


def test_a_late_rank_does_not_bring_a_draft_back(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "gone", 0, ShardReport({}, None))
    assert list(tmp_path.iterdir()) == []


class Slow(RecordingTrainer):
    """Its shards never reach the disk."""

    def start_checkpoint(self, folder):
        self.folder = folder


def test_a_slow_disk_costs_the_next_checkpoint_and_no_step_waits(catalogue, monkeypatch, caplog):
    monkeypatch.setattr(saver, "_PATIENCE_S", 0.0)
    trainer = Slow()
    saving = checkpoints(catalogue, trainer, timeout_s=3600.0)
    saving.save_if_due(state(1))  # returns at once
    saving.save_if_due(state(2))
    assert "step 2: no checkpoint, because that of step 1 is still being written" in caplog.text
    assert saving.failures == 0
    RecordingTrainer().start_checkpoint(trainer.folder)
    monkeypatch.setattr(trainer, "start_checkpoint", RecordingTrainer().start_checkpoint)
    saving.save_now(state(2))
    assert catalogue.steps() == [1, 2]


def test_the_deadline_gives_a_checkpoint_up(catalogue, caplog):
    saving = checkpoints(catalogue, timeout_s=30.0)
    saving.save_now(state(1))
    saving._trainer, saving._timeout_s = Slow(), 0.01
    assert_three_failures(saving, catalogue, caplog, "not written within 0.01 s")
    assert catalogue.steps() == [1]


def test_a_draft_that_disappears_fails_before_the_deadline(catalogue, caplog):
    class Removed(RecordingTrainer):
        def start_checkpoint(self, folder):
            shutil.rmtree(Path(folder).parent)

    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    saving._trainer = Removed()
    assert_three_failures(saving, catalogue, caplog, "is gone")


def test_a_trainer_that_refuses_costs_the_checkpoint(catalogue, caplog):
    class Refusing(RecordingTrainer):
        def start_checkpoint(self, folder):
            raise CheckpointError("the previous checkpoint is still being written")

    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    saving._trainer = Refusing()
    assert_three_failures(saving, catalogue, caplog, "still being written")


def test_an_unforeseen_failure_of_the_thread_is_no_success(catalogue, monkeypatch):
    monkeypatch.setattr(faults, "_passed", Counter())
    monkeypatch.setenv("MARS_FAULT", "checkpoint.before_manifest:raise")
    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    assert (saving.failures, catalogue.steps()) == (1, [])


def test_an_unmounted_disk_is_not_written_below(catalogue, monkeypatch, caplog):
    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    mounted = catalogue.folder.rename(catalogue.folder.with_name("mounted"))
    catalogue.folder.mkdir()
    monkeypatch.setattr(catalogue_module, "_device", lambda path: -1)
    for step in (2, 3):
        saving.save_now(state(step))
    assert list(catalogue.folder.iterdir()) == []
    assert "mount that one again" in caplog.text
    catalogue.folder.rmdir()
    mounted.rename(catalogue.folder)  # with another device number, as on a network disk
    saving.save_now(state(4))
    assert (saving.failures, catalogue.steps()) == (2, [1, 4])


def test_a_folder_behind_a_link_that_goes_away(catalogue, tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    catalogue.folder.symlink_to(disk)
    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    away = disk.rename(tmp_path / "away")
    for step in (2, 3):
        saving.save_now(state(step))
    with pytest.raises(CheckpointError, match="3 checkpoints in a row"):
        saving.save_now(state(4))
    away.rename(disk)
    assert catalogue.newest().manifest.step == 1


def test_checkpoints_that_somebody_removed_are_no_reason_to_save_no_more(catalogue):
    saving = checkpoints(catalogue)
    saving.save_now(state(1))
    shutil.rmtree(catalogue.folder)
    saving.save_now(state(2))
    assert (saving.failures, catalogue.steps()) == (0, [2])


def test_a_folder_that_cannot_be_written_is_noticed_before_anything_starts(catalogue):
    catalogue.check_writable()
    assert list(catalogue.folder.iterdir()) == []
    catalogue.folder.rmdir()
    catalogue.folder.write_text("a file")
    with pytest.raises(SetupError, match=r"run.dir: .*cannot be written") as error:
        catalogue.check_writable()
    assert error.value.exit_code == 4


def test_ranks_refuse_a_checkpoint_while_the_one_before_is_written(tmp_path, monkeypatch, process_group):
    full = Event()

    def save(*_, **__):
        assert full.wait(timeout=30)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards, "save", save)
    writer, folder = ShardWriter(), tmp_path / SHARDS_FOLDER
    folder.mkdir()
    writer.start({"weight": torch.zeros(2)}, str(folder))
    with pytest.raises(CheckpointError, match="still being written"):
        writer.start({"weight": torch.zeros(2)}, str(folder))
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_text("half")
    full.set()
    writer._thread.submit(int).result(timeout=30)  # after what was submitted before
    assert [path.name for path in folder.iterdir()] == ["rank_00000.json"]  # half a shard makes room for it
    assert take_reports(folder, 1)[0].error == "No space left on device"
    writer.start({"weight": torch.zeros(2)}, str(folder))
    writer._thread.submit(int).result(timeout=30)  # after what was submitted before
    writer.close()


def test_metrics_of_a_full_disk_come_later_and_a_resumed_run_needs_no_room(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path, None)
    tracker.log({"loss": 1.0}, 1)
    with full_disk(), caplog.at_level(logging.WARNING):
        tracker.log({"loss": 2.0}, 2)
        tracker.log({"loss": 3.0}, 3)
    assert [row["step"] for row in read_metrics(path).rows] == [1]
    assert caplog.text.count("rows are written later") == 1
    tracker.log({"loss": 4.0}, 4)
    tracker.close()
    assert [row["step"] for row in read_metrics(path).rows] == [1, 2, 3, 4]
    with full_disk():
        JsonlTracker(path, 2).close()
    assert [row["loss"] for row in read_metrics(path).rows] == [1.0, 2.0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_replaced_stays_whole_on_a_full_disk(tmp_path):
    path = tmp_path / "LATEST"
    path.write_text("step_000001\n")
    with full_disk(), pytest.raises(OSError, match="too large"), replacing(path) as draft:
        draft.write_text("step_000002\n")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("LATEST", "step_000001\n")]
