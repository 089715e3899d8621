"""What this machine has for a run (processor, memory, disk, ports, limits), and left-overs of runs that have ended."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from mars.run_dir.leftovers import ended_run_folders, ended_sessions, left_processes

_GIB = 2**30
_LITTLE_MEMORY, _LITTLE_DISK, _FULL_DISK = 4 * _GIB, 20 * _GIB, _GIB
_FEW_FILES = 4096
SHARED_MEMORY = Path("/dev/shm")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class Finding:
    """One line of `mars doctor`.

    state: "ok"; "note": a run works, but look at it; "no": mars needs it, and it is not there. do: advice, or "".
    """

    what: str
    found: str
    state: Literal["ok", "note", "no"] = "ok"
    do: str = ""


def machine_findings(folder: Path, object_store_bytes: int, environment: Mapping[str, str]) -> Iterator[Finding]:
    """folder: of the runs; it need not exist. object_store_bytes: cluster.object_store_bytes."""
    yield _cores()
    memory = psutil.virtual_memory()
    little = memory.available < _LITTLE_MEMORY
    advice = "end other processes: even the quick start takes a few GiB" if little else ""
    found = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    yield Finding("memory", found, "note" if little else "ok", advice)
    yield disk(folder)
    yield shared_memory(SHARED_MEMORY, object_store_bytes)
    yield ports()
    yield _open_files()
    threads = environment.get("OMP_NUM_THREADS")
    advice = "" if threads else "export OMP_NUM_THREADS=1 if others use these cores; workers set their own value"
    yield Finding("OMP_NUM_THREADS", threads or "not set", do=advice)
    yield offline(environment)


def disk(folder: Path) -> Finding:
    """The disk of the runs' folder or, if that does not exist, of the nearest folder above it that exists."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{there}: {free / _GIB:.0f} GiB free"
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(
            "disk of the runs", f"{there}: {error.strerror}", "no", "set run.dir to a folder you may write to"
        )
    if free < _FULL_DISK:
        return Finding("disk of the runs", found, "no", "make room, or set run.dir to another disk")
    if free < _LITTLE_DISK:
        advice = "a checkpoint takes 16 bytes for each parameter; lower checkpoint.keep_last, or use another disk"
        return Finding("disk of the runs", found, "note", advice)
    return Finding("disk of the runs", found)


def shared_memory(folder: Path, object_store_bytes: int) -> Finding:
    """Ray keeps its object store in shared memory. If there is too little of it, Ray uses files, which is slow."""
    what = "shared memory"
    if not folder.is_dir():
        return Finding(what, f"no {folder}", "note", "Ray keeps its object store in files, which is slow")
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free < object_store_bytes:
        advice = (
            f"cluster.object_store_bytes is {object_store_bytes / _GIB:.2g} GiB; start the container with --shm-size"
        )
        return Finding(what, found, "note", f"{advice}, or lower it")
    return Finding(what, found)


def ports() -> Finding:
    """Whether a process can reach another one over the loopback interface, as ranks and Ray do."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        advice = (
            "allow connections on the loopback interface (container or firewall settings); cluster=local needs none"
        )
        return Finding("ports", f"127.0.0.1: {error}", "no", advice)
    return Finding("ports", f"127.0.0.1:{port} could be opened and reached")


def offline(environment: Mapping[str, str]) -> Finding:
    values = [f"{name}={environment[name]}" for name in _OFFLINE if environment.get(name)]
    if not values:
        return Finding("offline flags", "none: names of the hub are downloaded")
    return Finding(
        "offline flags", " ".join(values), do="models and data sets given by a hub name must be in the cache"
    )


def leftovers(
    run_dirs: Iterable[Path], session_parents: Iterable[Path], run_parents: Iterable[Path] = ()
) -> Iterator[Finding]:
    """Processes of runs that have ended, and folders of Ray that no process uses.

    session_parents: folders in which Ray makes a folder for each session. run_parents: folders in which runs make one
    for all of Ray's files (RAY_TMPDIR).
    """
    processes = list(left_processes(run_dirs))
    for left in processes:
        process = psutil.Process(left.process.pid) if left.process.is_alive() else None
        size = f", {process.memory_info().rss / _GIB:.1f} GiB" if process is not None else ""
        found = f"process {left.process.pid} ({left.name}{size}) of {left.run_dir}, which has ended"
        advice = f"kill {left.process.pid}"
        if left.driver_host is not None:
            advice += f", if the run has ended on {left.driver_host} too"
        yield Finding("left-over", found, "note", advice)
    folders = [("folders of ended Ray sessions", parent, ended_sessions(parent)) for parent in session_parents]
    folders += [("Ray folders of ended runs", parent, ended_run_folders(parent)) for parent in run_parents]
    for what, parent, paths in folders:
        if paths:
            found = f"{len(paths)} {what} in {parent}, {_size(paths) / _GIB:.1f} GiB"
            shown = " ".join(shlex.quote(str(path)) for path in paths[:3])
            more = f" (and {len(paths) - 3} more)" if len(paths) > 3 else ""
            yield Finding("left-over", found, "note", f"rm -r {shown}{more}")
    if not processes and not any(paths for _, _, paths in folders):
        yield Finding("left-overs", "none")


def gpus_without_torch() -> int:
    """GPUs that nvidia-smi shows."""
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _container_cores()
    if share is not None and share < cores:
        return Finding("CPU cores", f"{cores}, of which the container may use {share:g}")
    return Finding("CPU cores", str(cores))


def _container_cores() -> float | None:
    """The limit of the control group, None if there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < _FEW_FILES
    advice = f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}: Ray opens many files"
    return Finding("open files", str(soft), "note" if few else "ok", advice if few else "")


def _size(folders: Iterable[Path]) -> int:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)
