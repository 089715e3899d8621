"""The state of the processes of a run's newest attempt, as far as its folder and this machine show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.run_dir.activity import NotedActivity
from mars.run_dir.attempt import attempts, read_attempt
from mars.run_dir.processes import ProcessId, process_from, recorded_workers
from mars.tracking.console import duration

DRIVER = "driver"
_TOLD: Mapping[str, str] = {"worker_lost": "lost", "engine_left_out": "left out"}


@dataclass(frozen=True)
class WorkerState:
    """place: "host:pid". state: in words. is_fine: whether no problem with it is known."""

    name: str
    place: str
    state: str
    is_fine: bool


def newest_attempt(run_dir: Path) -> Path | None:
    """The folder of the newest attempt; None if there is none, or if this user has no right to read the attempts."""
    with suppress(OSError):
        found = attempts(run_dir)
        return found[-1][1] if found else None
    return None


def worker_states(
    attempt: Path, events: Sequence[Mapping[str, Any]], activity: NotedActivity | None, now: float
) -> list[WorkerState]:
    """The driver, then the workers in the order of their names. For a replaced worker, its last process.

    events: of the run. The events of a worker since the attempt began have priority over the state of its process.
    activity: of the attempt. now: seconds since 1970.
    """
    told = _told(attempt.name, events)
    driver = process_from(read_attempt(attempt).get("process"))
    processes = {} if driver is None else {DRIVER: driver}
    processes |= {name: process for process, name in recorded_workers(attempt)}
    answered = {} if activity is None else activity.activity.answered_s
    noted = 0.0 if activity is None else max(now - activity.time, 0.0)  # the clocks of two machines may differ
    ages = {name: f", answered {duration(seconds + noted)} ago" for name, seconds in answered.items()}
    return [_state(name, process, told.get(name), ages.get(name, "")) for name, process in processes.items()]


def _state(name: str, process: ProcessId, told: str | None, age: str) -> WorkerState:
    place = f"{process.host}:{process.pid}"
    if told is not None:
        return WorkerState(name, place, told, is_fine=False)
    if not process.is_here():
        return WorkerState(name, place, "on another machine" + age, is_fine=True)
    is_alive = process.is_alive()
    return WorkerState(name, place, ("alive" if is_alive else "has ended") + age, is_alive)


def _told(attempt: str, events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Worker -> its problem according to the events of this attempt, such as "lost: <reason>". A worker that was
    replaced has no problem."""
    begun = [place for place, entry in enumerate(events) if entry["details"].get("attempt") == attempt]
    told: dict[str, str] = {}
    for entry in events[begun[-1] :] if begun else ():
        name, reason = entry["details"].get("worker"), entry["details"].get("reason")
        if entry["event"] == "worker_replaced":
            told.pop(str(name), None)
        elif entry["event"] in _TOLD:
            told[str(name)] = f"{_TOLD[entry['event']]}: {reason}"
    return told
