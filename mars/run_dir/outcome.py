"""The state of a run: how its last attempt ended, or that it is still running."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mars import interrupts, last_words
from mars.errors import InterruptedRun, MarsError, StalledError
from mars.run_dir.events import EventLog
from mars.run_dir.facts import without_keys
from mars.run_dir.processes import ProcessId
from mars.tracking.jsonl import METRICS_FILE, read_metrics

POLICY_FOLDER = "policy"
"""Of run.dir: the policy of a run that is complete."""

TRAIN_ON = "To train on, resume with a larger run.num_steps or run.num_epochs"

State = Literal["running", "finished", "interrupted", "failed"]
_BEGUN = ("started", "resumed")
_ENDED: dict[str, State] = {
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "stalled": "failed",
}


@contextmanager
def failures_logged(events: EventLog, run_dir: Path) -> Iterator[None]:
    """Log the event "interrupted", "stalled" or "failed" if the block raises, or if a thread ends the process during
    the block (`interrupts.end_now`). The event is logged once, even if both happen."""
    lock, logged = threading.Lock(), False

    def log(error: BaseException, exit_code: int | None) -> None:
        nonlocal logged
        with lock:
            if logged:
                return
            logged = True
            lines = without_keys(str(error)).splitlines()
            reason = lines[0] if lines else ""
            step = last_logged_step(run_dir)
            events.log(_event_of(error), step, error=type(error).__name__, reason=reason, exit_code=exit_code)

    with last_words.recorded(log):
        try:
            yield
        except BaseException as error:
            shown = interrupts.reason() or error
            log(shown, shown.exit_code if isinstance(shown, MarsError) else None)
            raise


def _event_of(error: BaseException) -> Literal["interrupted", "stalled", "failed"]:
    if isinstance(error, (InterruptedRun, KeyboardInterrupt)):
        return "interrupted"
    return "stalled" if isinstance(error, StalledError) else "failed"


def last_logged_step(run_dir: Path) -> int | None:
    """The step of the last row of metrics.jsonl; None without rows."""
    try:
        rows = read_metrics(run_dir / METRICS_FILE).rows
    except OSError:
        return None
    return rows[-1]["step"] if rows else None


def state_of(events: Sequence[Mapping[str, Any]], writer: ProcessId | None) -> State:
    """writer: the process that holds the run's lock.

    An attempt that ended without an event (it was killed, or the machine crashed) counts as interrupted.
    """
    if writer is not None:
        return "running"
    last = last_word(events)
    return "interrupted" if last is None else _ENDED[last["event"]]


def planned_step(events: Sequence[Mapping[str, Any]]) -> int | None:
    """The last step that the newest attempt planned to train, by the event of its start."""
    planned = [entry["details"].get("last_step") for entry in events if entry["event"] in _BEGUN]
    return planned[-1] if planned and type(planned[-1]) is int else None


def last_word(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The event of the newest attempt's end; None if it has not ended, or ended without an event."""
    last = next((entry for entry in reversed(events) if entry["event"] in (*_BEGUN, *_ENDED)), None)
    return last if last is not None and last["event"] in _ENDED else None


def completed_step(events: Sequence[Mapping[str, Any]], last_step: int) -> int | None:
    """`finished_step`, if the finished attempt reached `last_step` or was planned to reach it; else None.

    With run.num_epochs an attempt may finish before the step that was planned as the last, because dynamic sampling can
    draw more than one round of prompts in a step.
    """
    finished = finished_step(events)
    if finished is None:
        return None
    begun = next((entry for entry in reversed(events) if entry["event"] in _BEGUN), None)
    wanted = None if begun is None else begun["details"].get("last_step")
    return finished if max(finished, wanted if type(wanted) is int else 0) >= last_step else None


def finished_step(events: Sequence[Mapping[str, Any]]) -> int | None:
    """The step after which the newest attempt saved the policy and finished; None if it has not finished."""
    last = last_word(events)
    return last["step"] if last is not None and last["event"] == "finished" else None


def complete_message(step: int, policy: Path, hint: str) -> str:
    """The message of resuming a run that has nothing left to train. hint: how to train on."""
    return f"the run is complete: step {step} was its last; the policy is in {policy}. {hint}"
