"""events.jsonl: what happened to a run besides its steps, one line of JSON for each event.

{"time": "2026-01-31T12:00:00.000+00:00", "event": "checkpoint_saved", "step": 50, "details": {"seconds": 1.2}}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mars.run_dir.optional_record import OptionalRecord

EVENTS_FILE = "events.jsonl"
EventName = Literal[
    "started",
    "resumed",
    "checkpoint_saved",
    "checkpoint_failed",
    "checkpoint_damaged",
    "worker_lost",
    "worker_replaced",
    "engine_left_out",
    "trainer_rebuilt",
    "prompt_quarantined",
    "evaluation_incomplete",
    "update_skipped",
    "stalled",
    "interrupted",
    "failed",
    "finished",
]


class EventLog:
    """Appends events to a file. An event is on the disk when `log` returns. A failure to write never ends the run.

    path: None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._record = None if path is None else OptionalRecord(path)

    def log(self, event: EventName, step: int | None, **details: Any) -> None:
        """step: the step in which the event happened; the last finished step for an event that the caller cannot place
        in a step, such as a lost worker. None if no step is finished yet.

        details: values for JSON; other values are written as text.
        """
        if self._path is None or self._record is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "event": event, "step": step, "details": details}
        with self._record.writing():
            _append(self._path, (json.dumps(entry, default=str) + "\n").encode("ascii"))

    def entries(self) -> list[dict[str, Any]]:
        """As `read_events`."""
        return [] if self._path is None else read_events(self._path.parent)


@dataclass(frozen=True)
class LoggedEvents:
    """entries: the events in order. damaged: number of lines that are not events, such as half a line."""

    entries: list[dict[str, Any]]
    damaged: int

    def notes(self) -> list[str]:
        """One line for a reader if lines are damaged; else nothing."""
        if not self.damaged:
            return []
        return [f"{EVENTS_FILE}: damaged lines that are left out: {self.damaged}; the run's state may be wrong"]


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run in order, without lines that are not events. A missing file has no events. Raises OSError if
    the file cannot be read."""
    return read_event_file(run_dir).entries


def read_event_file(run_dir: Path) -> LoggedEvents:
    """As `read_events`, with the number of damaged lines."""
    try:
        lines = (run_dir / EVENTS_FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return LoggedEvents([], 0)
    events, damaged = [], 0
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # half a line, where the machine went down
            damaged += 1
            continue
        if isinstance(entry, dict) and isinstance(entry.get("event"), str) and isinstance(entry.get("time"), str):
            step, details = entry.get("step"), entry.get("details")
            entry["step"] = step if type(step) is int else None
            entry["details"] = details if isinstance(details, dict) else {}
            events.append(entry)
        else:
            damaged += 1
    return LoggedEvents(events, damaged)


def _append(path: Path, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # half a line of an earlier attempt
            line = b"\n" + line
        while line:
            line = line[os.write(file, line) :]
        os.fsync(file)
    finally:
        os.close(file)
