"""What `mars doctor` says about the machine, and about left-overs of runs that have ended."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mars.checks.machine import disk, leftovers, offline, ports, shared_memory
from mars.run_dir.leftovers import ended_run_folders, ended_sessions, left_processes
from mars.run_dir.lock import RunLock
from mars.run_dir.processes import ProcessId, process_id, this_process
from mars.versions import PACKAGES, TESTED, installed_version, is_tested

GIB = 2**30


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def attempt_of(run_dir, driver, processes):
    folder = run_dir / "logs" / "attempt_1"
    folder.mkdir(parents=True)
    (folder / "attempt.json").write_text(json.dumps({"process": asdict(driver)}))
    (folder / "processes.json").write_text(json.dumps([{**asdict(p), "name": "raylet"} for p in processes]))


def gone(process):
    return type(process)(process.host, process.pid, process.started - 1000)


def test_a_process_of_an_ended_run_is_found_with_its_end(tmp_path, child):
    own, left = this_process(), process_id(psutil.Process(child.pid))
    attempt_of(tmp_path / "running", own, [left])
    attempt_of(tmp_path / "ended", gone(own), [left, gone(own)])
    attempt_of(tmp_path / "elsewhere", gone(own), [type(left)("elsewhere", left.pid, left.started)])
    (found,) = left_processes(sorted(tmp_path.iterdir()))
    assert (found.process, found.name, found.run_dir) == (left, "raylet", tmp_path / "ended")
    (finding,) = leftovers([tmp_path / "ended"], [tmp_path / "no-ray"])
    assert (finding.state, finding.do) == ("note", f"kill {child.pid}")
    (finding,) = leftovers([tmp_path / "running"], [tmp_path / "no-ray"])
    assert (finding.state, finding.found) == ("ok", "none")


def test_processes_of_other_hosts_are_not_those_with_their_pids_here(tmp_path, child):
    """A worker of a run whose driver is on another host is a left-over only when that run has ended."""
    here = process_id(psutil.Process(child.pid))
    driver = ProcessId("node-a", os.getpid(), this_process().started)
    attempt_of(tmp_path / "run", driver, [])
    logs = tmp_path / "run" / "logs" / "attempt_1"
    for name, process in (("engine-0", ProcessId("node-b", child.pid, here.started)), ("actor-0", here)):
        (logs / f"{name}.processes.jsonl").write_text(json.dumps(asdict(process)) + "\n")
    with RunLock(tmp_path / "run") as lock:
        lock.take()
        assert list(left_processes([tmp_path / "run"])) == []
    (left,) = left_processes([tmp_path / "run"])
    assert (left.process, left.name, left.driver_host) == (here, "actor-0", "node-a")
    (finding,) = leftovers([tmp_path / "run"], [tmp_path / "no-ray"])
    assert (finding.state, finding.do) == ("note", f"kill {child.pid}, if the run has ended on node-a too")


def test_sessions_of_processes_that_are_gone_can_go(tmp_path, child):
    alive = f"session_2026-01-02_03-04-05_678901_{child.pid}"
    child.kill()
    child.wait()
    ended, used = (f"session_2026-01-02_03-04-05_678901_{pid}" for pid in (child.pid, os.getpid()))
    for name in (alive, ended, used, "session_latest", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert ended_sessions(tmp_path) == [tmp_path / ended]
    holder = subprocess.Popen(["sh", "-c", "read x", ended], stdin=subprocess.PIPE)  # as a raylet names its session
    try:
        assert ended_sessions(tmp_path) == []
    finally:
        holder.stdin.close()
        holder.wait()


def test_the_ray_folder_of_a_killed_run_can_go_when_nothing_uses_it(tmp_path, child):
    """A process may name it by another path, so only the folder's own name counts."""
    folder, made = tmp_path / "mars-ray-ab_c12de", Path("/link/mars-ray-ab_c12de")
    session = folder / "ray" / f"session_2026-01-02_03-04-05_678901_{child.pid}"
    session.mkdir(parents=True)
    (folder / "token").write_text("secret")
    for name in ("mars-ray-abc", f"mars-ray-{os.getuid()}", "other"):  # not made by runs
        (tmp_path / name).mkdir()
    assert ended_run_folders(tmp_path) == [], "the driver lives"
    child.kill()
    child.wait()
    assert ended_run_folders(tmp_path) == [folder]
    (finding,) = leftovers([], [], [tmp_path / "absent", tmp_path])
    assert (finding.state, finding.do) == ("note", f"rm -r {folder}")
    assert finding.found.startswith(f"1 Ray folders of ended runs in {tmp_path}, ")
    for use in ({"args": ["sh", "-c", "read x", str(made)]}, {"env": {"MARS_CLUSTER": str(made)}}):
        with subprocess.Popen(**{"args": ["sh", "-c", "read x"], **use}, stdin=subprocess.PIPE):
            assert ended_run_folders(tmp_path) == [], "a process uses it"
    with (folder / "token").open():
        assert ended_run_folders(tmp_path) == [], "its file is open"
    assert ended_run_folders(tmp_path) == [folder]


@pytest.mark.parametrize(("free", "state"), [(0.5, "no"), (5, "note"), (100, "ok")])
def test_a_disk_is_judged_by_what_is_free(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIB, total=200 * GIB))
    finding = disk(tmp_path / "not" / "there")
    assert (finding.state, bool(finding.do)) == (state, state != "ok")
    assert str(tmp_path) in finding.found


def test_a_disk_that_cannot_be_written_blocks(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", read_only)
    assert (disk(tmp_path).state, "Read-only" in disk(tmp_path).found) == ("no", True)


def test_shared_memory_must_hold_the_object_store(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20, total=64 * 2**20))
    finding = shared_memory(tmp_path, GIB // 4)
    assert finding.state == "note"
    assert "0.25 GiB; start the container with --shm-size" in finding.do
    assert shared_memory(tmp_path, 2**20).state == "ok"
    assert shared_memory(tmp_path / "none", 2**20).state == "note"


def test_a_loopback_that_refuses_blocks(monkeypatch):
    assert ports().state == "ok"

    def refuse(address, timeout):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert (ports().state, "loopback" in ports().do) == ("no", True)


def test_offline_flags_are_shown():
    assert offline({"HF_HUB_OFFLINE": "1", "WANDB_MODE": "x"}).found == "HF_HUB_OFFLINE=1"
    assert offline({}).found.startswith("none")


def test_tested_versions():
    assert is_tested("torch", "2.13.0+cpu")
    assert is_tested("python", "3.11.7")
    assert not is_tested("python", "3.110.1")
    assert not is_tested("ray", "2.60.1")
    assert is_tested("a package without a test", "1")
    for name in ("torch", "transformers", "ray", "datasets"):  # pinned in pyproject.toml
        assert is_tested(name, installed_version(name) or ""), name
    assert set(PACKAGES) - {"mars", "vllm", "safetensors"} <= set(TESTED)
