"""The state of a run's folder at a moment. Each look reads only the files that have changed since the last one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mars.answers.files import read_answers
from mars.answers.record import Answer, by_question
from mars.config.folders import CONFIG_FILE
from mars.errors import DataError
from mars.report.run_record import newest_rollouts, read_config
from mars.run_dir.activity import NotedActivity, read_activity
from mars.run_dir.events import EVENTS_FILE, LoggedEvents, read_event_file
from mars.run_dir.lock import held_by
from mars.run_dir.outcome import State, planned_step, state_of
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.metrics_tail import MetricsTail
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from mars.watch.workers import WorkerState, newest_attempt, worker_states

Found = TypeVar("Found")

_PACE_STEPS = 20
"""The time left is extrapolated from the mean duration of this many steps."""

_KEPT = ("critic/score/", "mars/gain/", "mars/anchor/", "response_length/", "sft/loss", "eval/", "timing_s/")


@dataclass(frozen=True)
class Seen:
    """name: of the run. last_step: the planned end; None if unknown. rows: of metrics.jsonl, in the order of steps,
    with the metrics that are shown. workers, activity: of a running run, else () and None; activity is None also until
    the workers have started. questions: the answers to each question of the newest rollouts. notes: what cannot be
    read.
    time: of the look, in seconds since 1970."""

    name: str
    folder: Path
    state: State
    last_step: int | None
    rows: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    workers: Sequence[WorkerState]
    activity: NotedActivity | None
    questions: Sequence[Sequence[Answer]]
    notes: Sequence[str]
    time: float

    @property
    def step(self) -> int:
        """The last step with metrics; 0 before the first."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def seconds_left(self) -> float | None:
        """The number of steps left times the mean duration of the last 20 steps; the time of evaluations is not
        counted. None if unknown."""
        timed = [row["timing_s/step"] for row in self.rows if isinstance(row.get("timing_s/step"), int | float)]
        if self.state != "running" or self.last_step is None or not timed:
            return None
        pace = sum(timed[-_PACE_STEPS:]) / len(timed[-_PACE_STEPS:])
        return pace * max(self.last_step - self.step, 0)


class RunReader:
    """Looks at the run in `run_dir` repeatedly. Writes nothing there. clock: seconds since 1970."""

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._metrics = MetricsTail(run_dir / METRICS_FILE, lambda key: key.startswith(_KEPT))
        self._read: dict[str, tuple[object, Any]] = {}  # part -> (the file's mark, what was read)
        self._notes: list[str] = []

    def look(self) -> Seen:
        """The state of the folder now. A part that cannot be read stays as at the last look, with a note about it."""
        self._notes = []
        # The state is read first: if the run has ended by then, everything that is read afterwards is final.
        writer = held_by(self._run_dir)
        logged = self._part(self._run_dir / EVENTS_FILE, lambda path: read_event_file(path.parent), LoggedEvents([], 0))
        self._notes += logged.notes()
        events, state = logged.entries, state_of(logged.entries, writer)
        settings, planned = self._settings(), planned_step(events)
        steps = planned if planned is not None else settings.get("num_steps")
        attempt = newest_attempt(self._run_dir) if state == "running" else None
        activity, now = None if attempt is None else read_activity(attempt), self._clock()
        return Seen(
            name=str(settings.get("name") or self._run_dir.resolve().name),
            folder=self._run_dir,
            state=state,
            last_step=steps if type(steps) is int else None,
            rows=self._rows(),
            events=events,
            workers=() if attempt is None else worker_states(attempt, events, activity, now),
            activity=activity,
            questions=self._questions(),
            notes=self._notes,
            time=now,
        )

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        try:
            self._metrics.read()
        except OSError as error:
            self._notes.append(f"{METRICS_FILE}: cannot be read ({error.strerror})")
        if self._metrics.damaged:
            self._notes.append(f"{METRICS_FILE}: damaged lines that are left out: {self._metrics.damaged}")
        return self._metrics.rows

    def _settings(self) -> Mapping[str, Any]:
        """The section `run` of the configuration; {} if there is none."""
        config, notes = self._part(self._run_dir / CONFIG_FILE, _config, (None, ()))
        self._notes += notes
        run = config.get("run") if isinstance(config, dict) else None
        return run if isinstance(run, dict) else {}

    def _questions(self) -> Sequence[Sequence[Answer]]:
        path = newest_rollouts(self._run_dir / ROLLOUTS_FOLDER)
        if path is None:
            return ()
        answers, left_out = self._part(path, _answers, ((), 0))
        if left_out:
            self._notes.append(f"{path.name}: {left_out} lines are left out, they are no answers")
        return by_question(answers)

    def _part(self, path: Path, read: Callable[[Path], Found], otherwise: Found) -> Found:
        """The result of `read` for a file, which is called only if the file has changed since the last look."""
        name = path.relative_to(self._run_dir).parts[0]
        known = self._read.get(name)
        try:
            found = path.stat()
            mark = path, found.st_ino, found.st_size, found.st_mtime_ns
            if known is None or known[0] != mark:
                self._read[name] = mark, read(path)
        except FileNotFoundError:
            self._read.pop(name, None)
            return otherwise
        except (OSError, DataError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._notes.append(f"{path.name}: cannot be read ({reason})")
            return otherwise if known is None else known[1]
        return self._read[name][1]


def _config(path: Path) -> tuple[Any, Sequence[str]]:
    notes: list[str] = []
    return read_config(path, notes)[0], notes


def _answers(path: Path) -> tuple[Sequence[Answer], int]:
    """The answers in a file, and the number of its lines that are not answers."""
    file = read_answers(path)
    return file.answers, len(file.problems)
