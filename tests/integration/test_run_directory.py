"""A run's folder from its start to its export: one writer, a record of each attempt, and resuming only when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mars.run_dir.attempt import read_attempt, recorded_processes
from mars.run_dir.events import read_events
from mars.run_dir.lock import RunLock
from tests.integration.workshop import LOCAL, Job, Workshop, run

HF = (*LOCAL, "rollout=hf", "rollout.num_workers=1", "checkpoint.every=1")


def mars(run_dir: Path, *arguments: str) -> Job:
    """The command, from a folder that is not the run's."""
    return run(["-m", "mars.cli.main", *arguments], run_dir)


def events(run_dir: Path) -> list[tuple[str, int | None]]:
    return [(entry["event"], entry["step"]) for entry in read_events(run_dir)]


@pytest.fixture(scope="module")
def finished(workshop: Workshop, tmp_path_factory) -> Path:
    """A run of two steps. Its data are named relative to the folder in which it was started."""
    home = tmp_path_factory.mktemp("home")
    (home / "rows").symlink_to(workshop.data)
    job = workshop.train(home / "run", *HF, "data.train_files=[rows/train.parquet]", "data.eval_files=[]")
    assert job.returncode == 0, job.stderr
    return job.run_dir


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_records_its_attempt(finished: Path):
    record = read_attempt(finished / "logs" / "attempt_1")
    assert record["overrides"][0] == "experiment=quickstart"
    assert record["working_directory"] == str(finished.parent)
    assert record["functions"]["reward.function"][0]["function"] == "score"
    assert events(finished) == [("started", 0), ("checkpoint_saved", 1), ("checkpoint_saved", 2), ("finished", 2)]
    alive = [process for process, _ in recorded_processes(finished / "logs" / "attempt_1") if process.is_alive()]
    assert alive == []


def test_a_second_run_in_the_folder_changes_nothing(workshop: Workshop, finished: Path):
    before = contents(finished)
    with RunLock(finished) as lock:
        lock.take()
        held = contents(finished)
        job = workshop.train(finished, *HF, "run.resume=true")
        assert (job.returncode, "is writing to" in job.stderr) == (73, True)
        assert contents(finished) == held
    refused = workshop.train(finished, *HF)
    assert (refused.returncode, f"mars resume {finished}" in refused.stderr) == (2, True)
    after = contents(finished)
    assert {name for name in after if after[name] != before.get(name)} <= {"LOCK"}


def test_an_exported_checkpoint_is_the_saved_policy(finished: Path, tmp_path: Path):
    job = mars(finished.parent / "elsewhere", "ckpt", "export", str(finished), str(tmp_path / "out"))
    assert job.returncode == 0, job.stderr
    assert contents(tmp_path / "out") == contents(finished / "policy")


def test_a_finished_run_trains_on_from_any_folder_when_it_gets_more_steps(finished: Path, tmp_path: Path):
    before = contents(finished / "policy")
    job = mars(tmp_path / "x", "resume", str(finished))
    assert (job.returncode, "the run is complete: step 2 was its last" in job.stderr) == (0, True)
    assert contents(finished / "policy") == before
    assert not (finished / "logs" / "attempt_2").exists()
    job = mars(tmp_path / "x", "resume", str(finished), "run.num_steps=3")
    assert job.returncode == 0, job.stderr
    assert [json.loads(line)["step"] for line in (finished / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert events(finished)[4:] == [("resumed", 2), ("checkpoint_saved", 3), ("finished", 3)]
    assert read_attempt(finished / "logs" / "attempt_2")["resume"] is True
    (shown,) = json.loads(mars(finished, "runs", "ls", str(finished), "--json").stdout)
    assert (shown["state"], shown["step"], shown["last_step"]) == ("finished", 3, 3)
