"""A run whose checkpoints go to a disk that is too small for a second one."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from mars.checkpoint.catalogue import Catalogue
from mars.run_dir.events import read_events
from tests.integration.workshop import LOCAL, Job, Workshop

HF = (*LOCAL, "rollout=hf", "rollout.num_workers=1", "checkpoint.every=1", "run.num_steps=5", "data.eval_files=[]")


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; the room of one checkpoint is set by the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64m", "none", str(folder)):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def outcome(job: Job) -> tuple[list[dict], str]:
    rows = [{k: v for k, v in row.items() if not k.startswith(("timing_s/", "perf/", "fault/"))} for row in job.metrics]
    return rows, sha256((job.run_dir / "policy" / "model.safetensors").read_bytes()).hexdigest()


def test_training_goes_on_ends_with_7_and_is_resumed_with_more_room(workshop: Workshop, small_disk: Path, tmp_path):
    whole = workshop.train(tmp_path / "whole", *HF)
    assert whole.returncode == 0, whole.stderr
    checkpoint = Catalogue(tmp_path / "whole" / "checkpoints").newest()
    assert checkpoint is not None
    size = checkpoint.manifest.size()

    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "checkpoints").symlink_to(small_disk)
    assert mount("-o", f"remount,size={int(1.5 * size)}", str(small_disk))
    job = workshop.train(run_dir, *HF)
    assert job.returncode == 7, job.stderr
    assert "3 checkpoints in a row could not be written" in job.stderr
    assert "step 2: no checkpoint: " in job.stderr
    assert "training goes on" in job.stderr
    assert "No space left on device" in job.stderr
    failed = [entry["step"] for entry in read_events(run_dir) if entry["event"] == "checkpoint_failed"]
    assert failed == [2, 3, 4]
    assert Catalogue(run_dir / "checkpoints").newest().manifest.step == 1
    assert [path.name for path in small_disk.glob(".tmp*")] == []

    assert mount("-o", f"remount,size={5 * size}", str(small_disk))
    resumed = workshop.train(run_dir, *HF, "run.resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(resumed) == outcome(whole)


def test_a_read_only_disk_ends_the_run_before_it_starts(workshop: Workshop, small_disk: Path, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "checkpoints").symlink_to(small_disk)
    assert mount("-o", "remount,ro", str(small_disk))
    job = workshop.train(run_dir, *HF)
    assert job.returncode == 4
    assert f"run.dir: {run_dir}/checkpoints" in job.stderr
    assert "Read-only file system" in job.stderr
    assert not (run_dir / "logs").exists()
    job = workshop.train(small_disk / "run", *HF)
    assert job.returncode == 4
    assert "run.dir: " in job.stderr
    assert "Read-only file system" in job.stderr
