"""What each attempt of a run leaves: events, how it ended, and a record without keys."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.entry import enter
from mars.errors import ConfigError, WorkerError
from mars.process import LOG_FILE
from mars.run_dir import facts
from mars.run_dir.attempt import attempts, read_attempt, recorded_processes, start_attempt
from mars.run_dir.events import EVENTS_FILE, EventLog, read_events
from mars.run_dir.facts import CodeVersion, code_version, relevant_environment
from mars.run_dir.lock import RunLock
from mars.run_dir.outcome import failures_logged, finished_step, last_logged_step, state_of
from mars.run_dir.process_list import ProcessList, listed_processes
from mars.run_dir.processes import ProcessId, record_worker, this_process
from tests.examples import examples
from tests.unit.checkpoint.test_catalogue import commit

# --- events


def names(run_dir: Path) -> list[str]:
    return [entry["event"] for entry in read_events(run_dir)]


def test_events_are_read_as_they_were_logged(tmp_path):
    log = EventLog(tmp_path / EVENTS_FILE)
    log.log("started", 0, last_step=4)
    log.log("checkpoint_saved", 2, path=Path("a\nb"))
    first, second = read_events(tmp_path)
    assert (first["event"], first["step"], first["details"]) == ("started", 0, {"last_step": 4})
    assert (second["step"], second["details"]) == (2, {"path": "a\nb"})
    assert first["time"] <= second["time"]
    assert first["time"].endswith("+00:00")


@examples(30)
@given(st.integers(0, 200))
def test_half_a_line_costs_that_line_alone(cut):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / EVENTS_FILE
        log = EventLog(path)
        log.log("started", 0)
        whole = path.stat().st_size
        log.log("worker_lost", 1, worker="engine-0")
        path.write_bytes(path.read_bytes()[: whole + cut])
        log.log("finished", 2)
        found = names(Path(folder))
        assert found[0] == "started"
        assert found[-1] == "finished"
        assert set(found[1:-1]) <= {"worker_lost"}
        assert len(found) == len(set(found))


def test_a_full_disk_ends_no_run_and_is_said_once(tmp_path, monkeypatch, caplog):
    log = EventLog(tmp_path / EVENTS_FILE)

    def full(file, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.log("started", 0)
        log.log("checkpoint_failed", 1)
    log.log("finished", 2)
    assert names(tmp_path) == ["finished"]
    assert caplog.text.count("No space left") == 1


def test_the_catalogue_tells_what_was_saved_and_what_is_damaged(tmp_path):
    catalogue = Catalogue(tmp_path / "checkpoints", EventLog(tmp_path / EVENTS_FILE))
    commit(catalogue, 1)
    (commit(catalogue, 2) / "state.json").write_bytes(b'{"step": 2}')
    loaded = catalogue.newest()
    assert loaded is not None
    assert loaded.manifest.step == 1
    saved, _, damaged = read_events(tmp_path)
    assert (saved["event"], saved["step"], saved["details"]) == ("checkpoint_saved", 1, {"bytes": 11 + 7 + 12})
    assert (damaged["event"], damaged["step"]) == ("checkpoint_damaged", 2)
    assert "state.json" in damaged["details"]["reason"]


# --- how a run stands


def test_the_state_of_a_run_is_its_last_word(tmp_path):
    log = EventLog(tmp_path / EVENTS_FILE)
    log.log("started", 0)
    assert state_of(read_events(tmp_path), this_process()) == "running"
    assert state_of(read_events(tmp_path), None) == "interrupted"  # killed
    with pytest.raises(WorkerError), failures_logged(log, tmp_path):
        raise WorkerError("engine-0 died\nand more")
    assert state_of(read_events(tmp_path), None) == "failed"
    details = read_events(tmp_path)[-1]["details"]
    assert details == {"error": "WorkerError", "reason": "engine-0 died", "exit_code": 5}
    log.log("resumed", 2)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 3}\n')
    with pytest.raises(KeyboardInterrupt), failures_logged(log, tmp_path):
        raise KeyboardInterrupt
    assert state_of(read_events(tmp_path), None) == "interrupted"
    assert (read_events(tmp_path)[-1]["step"], last_logged_step(tmp_path)) == (3, 3)
    assert finished_step(read_events(tmp_path)) is None
    log.log("finished", 4)
    log.log("checkpoint_damaged", 4)
    assert (state_of(read_events(tmp_path), None), finished_step(read_events(tmp_path))) == ("finished", 4)
    log.log("resumed", 4)  # with more steps; killed while it saves the policy
    assert (state_of(read_events(tmp_path), None), finished_step(read_events(tmp_path))) == ("interrupted", None)


# --- entering a folder


@pytest.fixture
def no_log_stays():
    log = logging.getLogger("mars")
    before = list(log.handlers)
    yield
    for handler in set(log.handlers) - set(before):
        log.removeHandler(handler)
        handler.close()


def test_another_run_is_not_touched_unless_it_is_resumed(tmp_path, no_log_stays):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with RunLock(tmp_path) as lock:
        with pytest.raises(ConfigError, match=r"use `mars resume .*` or run\.resume=true"):
            enter(tmp_path, lock, resume=False)
        assert not (tmp_path / LOG_FILE).exists()
        enter(tmp_path, lock, resume=True)
        (tmp_path / "metrics.jsonl").unlink()
        enter(tmp_path, lock, resume=False)
        commit(Catalogue(tmp_path / "checkpoints"), 7)
        with pytest.raises(ConfigError, match=r"newest checkpoint: step 7"):
            enter(tmp_path, lock, resume=False)


# --- the record of an attempt


def test_attempts_are_numbered_and_say_where_they_ran(tmp_path, monkeypatch):
    monkeypatch.setattr("mars.run_dir.attempt.code_version", lambda: CodeVersion("abc", b"- old\n+ new\n"))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "attempt_x").mkdir()
    first = start_attempt(tmp_path, ["run.num_steps=4"], {}, resumes=False)
    second = start_attempt(tmp_path, [], {"reward.function": [{"sha256": "0"}]}, resumes=True)
    assert attempts(tmp_path) == [(1, first), (2, second)]
    record = read_attempt(second)
    assert record["working_directory"] == os.getcwd()
    assert record["process"]["pid"] == os.getpid()
    assert (record["attempt"], record["resume"], record["functions"]) == (
        2,
        True,
        {"reward.function": [{"sha256": "0"}]},
    )
    assert record["versions"]["torch"]
    assert record["machine"]["memory_bytes"] > 0
    digest = hashlib.sha256(b"- old\n+ new\n").hexdigest()
    assert record["code"] == {"commit": "abc", "diff_sha256": digest, "diff_truncated": False, "untracked": []}
    assert (first / "code.diff").read_text() == "- old\n+ new\n"
    assert read_attempt(first)["overrides"] == ["run.num_steps=4"]


def test_no_key_is_in_the_record(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "DB_PASSWORD", "MARS_SECRET"):
        monkeypatch.setenv(name, "planted-value")
    monkeypatch.setenv("HF_AUTH", "short")
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:planted-word@host/")
    monkeypatch.setenv("RAY_SOMETHING", "a planted-value b")
    monkeypatch.setattr("mars.run_dir.attempt.code_version", lambda: CodeVersion("abc", b"+ 'planted-value'\n"))
    folder = start_attempt(tmp_path, ["run.name=planted-value"], {}, resumes=False)
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "planted" not in text
    assert "short" not in read_attempt(folder)["environment"].values()
    assert read_attempt(folder)["environment"]["WANDB_BASE_URL"] == "https://***@host/"


def test_variables_that_libraries_read_are_kept_and_others_left_out():
    kept = {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "x", "PATH": "y"}
    others = {"HOME": "/root", "EDITOR": "vi", "OMPHALOS": "1", "HF_TOKEN": "", "USER": "me"}
    assert relevant_environment(kept | others) == kept


def git(folder: Path, *arguments: str) -> None:
    identity = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "commit.gpgsign=false",
    ]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)


def test_the_code_is_a_commit_and_a_bounded_diff(tmp_path, monkeypatch):
    assert code_version(tmp_path) == CodeVersion(None)
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("old\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = code_version(tmp_path)
    assert clean.commit is not None
    assert (len(clean.commit), clean.diff, clean.untracked) == (40, b"", ())
    (tmp_path / "a.py").write_text("new\n")
    (tmp_path / "b.py").write_text("")
    (tmp_path / "inside").mkdir()
    changed = code_version(tmp_path)
    assert (changed.commit, changed.truncated, changed.untracked) == (clean.commit, False, ("b.py",))
    assert b"-old\n+new\n" in changed.diff
    assert code_version(tmp_path / "inside") == CodeVersion(None)  # mars, installed inside another checkout
    monkeypatch.setattr(facts, "MAX_DIFF_BYTES", 10)
    assert (code_version(tmp_path).diff, code_version(tmp_path).truncated) == (changed.diff[:10], True)


def test_started_processes_are_recorded_with_their_start(tmp_path):
    folder = start_attempt(tmp_path, [], {}, resumes=False)
    child = subprocess.Popen(["sleep", "60"])
    try:
        ProcessList(folder).update()
        record_worker(folder, "engine-0")  # this process is one of both kinds
        found = {process.pid: (process, name) for process, name in recorded_processes(folder)}
        assert found[os.getpid()] == (this_process(), "engine-0")
        process, name = found[child.pid]
        assert name == "sleep"
        assert process.is_alive()
    finally:
        child.kill()
        child.wait()
    assert not process.is_alive()
    (folder / "processes.json").write_text("[1, {}, " + json.dumps({"host": "x"}) + "]")
    assert [name for _, name in recorded_processes(folder)] == ["mars", "engine-0"]


def test_a_process_is_listed_until_it_ends_also_without_its_parent(tmp_path):
    """The child of a reward process that was killed, for example."""
    processes = ProcessList(tmp_path)
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    orphan = int(parent.stdout.readline())

    def listed():
        processes.update()
        return {process.pid for process, _ in listed_processes(tmp_path)} & {parent.pid, orphan}

    try:
        assert listed() == {parent.pid, orphan}
        parent.kill()
        parent.wait()
        assert listed() == {orphan}
    finally:
        process = psutil.Process(orphan)
        process.kill()
        process.wait(10)
    assert listed() == set()


def test_workers_of_all_hosts_are_recorded(tmp_path, monkeypatch, caplog):
    folder = start_attempt(tmp_path, [], {}, resumes=False)
    own = this_process()
    record_worker(folder, "engine-0")
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "node-b")
        record_worker(folder, "actor-0")
        record_worker(folder, "actor-0")  # it was replaced
    there = ProcessId("node-b", own.pid, own.started)
    workers = [(there, "actor-0"), (there, "actor-0"), (own, "engine-0")]
    assert list(recorded_processes(folder)) == [(own, "mars"), *workers]
    # A worker on the driver's host is among its children too, with its start read at another moment.
    again = [asdict(replace(process, started=process.started + 0.01)) | {"name": "ray::x"} for process in (own, there)]
    other = asdict(replace(own, started=own.started - 60)) | {"name": "an earlier one with that pid"}
    (folder / "processes.json").write_text(json.dumps([*again, other]))
    assert [name for _, name in recorded_processes(folder)][4:] == ["an earlier one with that pid"]
    with (folder / "engine-0.processes.jsonl").open("a") as file:
        file.write('[]\n{"host": 1}\n{"ho')
    (folder / "engine-1.processes.jsonl").mkdir()
    assert len(list(recorded_processes(folder))) == 5
    record_worker(tmp_path / "gone", "engine-0")
    assert "the process of engine-0 is not recorded" in caplog.text
