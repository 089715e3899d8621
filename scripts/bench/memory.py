"""Memory of a run's processes, read from outside."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

WINDOW = 10  # steps per median, so that one allocation does not decide the result
_WORKERS = {"ray::EngineWorker": "engine", "ray::TrainerWorker": "trainer"}
_REWARDS, _RAY = "rewards", "ray"


@dataclass(frozen=True)
class Memory:
    """In MiB. rss: resident, including shared pages. uss: only pages of this process. peak: highest rss so far."""

    rss: float
    uss: float
    peak: float

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.uss + other.uss, self.peak + other.peak)


def memory_of_child() -> dict[str, Memory]:
    """Memory of the run's processes, by name as `named` returns it. The run must be this process's only child.

    Empty if the run has just ended.
    """
    children = psutil.Process().children()
    if not children:
        return {}
    (driver,) = children
    found = []
    for process in (driver, *driver.children(recursive=True)):
        try:
            found.append((process.pid, " ".join(process.cmdline()), _memory(process)))
        except (psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError):
            continue  # the process has ended meanwhile
    return named(found, driver.pid)


def processor_seconds_of_child() -> float | None:
    """Processor seconds of the driver process with all its threads, since its start. None if it has just ended.

    The driver must be this process's only child.
    """
    for driver in psutil.Process().children():
        try:
            times = driver.cpu_times()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return None
        return times.user + times.system
    return None


def named(processes: Iterable[tuple[int, str, Memory]], driver: int) -> dict[str, Memory]:
    """(pid, command line, memory) of processes -> memory by name.

    Engine and trainer workers are numbered in the order of their pids ("engine 0", "trainer 1"). The reward workers are
    added up as "rewards", and Ray's own processes as "ray".
    """
    found: dict[str, Memory] = {}
    count = dict.fromkeys(_WORKERS.values(), 0)
    for pid, command, memory in sorted(processes, key=lambda process: process[0]):
        worker = next((name for title, name in _WORKERS.items() if command.startswith(title)), None)
        if pid == driver:
            found["driver"] = memory
        elif worker is not None:
            found[f"{worker} {count[worker]}"] = memory
            count[worker] += 1
        else:
            name = _REWARDS if "mars.rewards.worker" in command else _RAY
            found[name] = found[name] + memory if name in found else memory
    return found


def is_ours(name: str) -> bool:
    """Whether the process is the driver, an engine or a trainer."""
    return name not in (_REWARDS, _RAY)


def growth(values: Sequence[float], first: int) -> float:
    """Relative growth from the values at step `first` (steps count from 1) to the last values.

    Compares medians of WINDOW steps. Example: 100 in steps 1 to 100, 103 in steps 101 to 200, first 20 -> 0.03.
    Raises ValueError if the windows overlap.
    """
    early, late = values[first - 1 : first - 1 + WINDOW], values[-WINDOW:]
    if first < 1 or len(values) < first - 1 + 2 * WINDOW:
        raise ValueError(f"growth from step {first} on needs {first - 1 + 2 * WINDOW} steps; got {len(values)}")
    return median(late) / median(early) - 1


def _memory(process: psutil.Process) -> Memory:
    info = process.memory_full_info()
    return Memory(info.rss / 2**20, info.uss / 2**20, _peak_mib(process.pid, info.rss / 2**20))


def _peak_mib(pid: int, otherwise: float) -> float:
    """Peak resident memory, from Linux's line "VmHWM:   812345 kB"; `otherwise` if there is no such line."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return otherwise


def status_mib(field: str) -> float:
    """`field` of /proc/self/status, in MiB. Example: the line "VmHWM:   812345 kB" -> 793.3."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def in_own_process(function: Callable[..., float], *args: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)
