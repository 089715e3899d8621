"""activity.json of an attempt: what its driver does, written every few seconds.

{"time": 1769860800.0, "stages": [["gen", 12.5]], "progress_s": 0.3, "answered_s": {"engine-0": 0.3}}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mars.output.files import replacing
from mars.run_dir.optional_record import OptionalRecord
from mars.watchdog import Activity

ACTIVITY_FILE = "activity.json"


class ActivityFile:
    """Writes the activity of one attempt. folder: of the attempt. clock: seconds since 1970."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / ACTIVITY_FILE
        self._clock = clock
        self._record = OptionalRecord(self._path)

    def write(self, activity: Activity) -> None:
        """Replace the file. A failure raises nothing; of several in a row, the first is logged."""
        stages = [(name, round(seconds, 1)) for name, seconds in activity.stages]
        answered = {worker: round(seconds, 1) for worker, seconds in activity.answered_s.items()}
        content = {
            "time": round(self._clock(), 1),
            "stages": stages,
            "progress_s": round(activity.progress_s, 1),
            "answered_s": answered,
        }
        with self._record.writing(), replacing(self._path) as draft:
            draft.write_text(json.dumps(content) + "\n", encoding="ascii")


@dataclass(frozen=True)
class NotedActivity:
    """time: when `activity` was noted, in seconds since 1970, by the clock of the driver's machine."""

    time: float
    activity: Activity


def read_activity(folder: Path) -> NotedActivity | None:
    """The content of an attempt's file; None if there is none, or if it is damaged."""
    try:
        content = json.loads((folder / ACTIVITY_FILE).read_bytes())
        stages = tuple((str(name), float(seconds)) for name, seconds in content["stages"])
        answered = {str(worker): float(seconds) for worker, seconds in content["answered_s"].items()}
        return NotedActivity(float(content["time"]), Activity(stages, float(content["progress_s"]), answered))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
