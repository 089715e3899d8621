"""Count what one process does in each step to supervise the run, and compare steps with and without this work
(docs/benchmarks.md says what belongs to it).

Steps are numbered from 1. The first WARM_UP steps run unchanged. In the next COUNTED steps, the calls of each `Hook`
(here: a function that does such work, not a recipe's hook) are counted. Pairs of steps follow: one step with these
functions and one with stubs in their place. In every second pair the step with stubs is first, so that a drift cancels
out.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any, Literal

WARM_UP, COUNTED = 4, 6
WATCHERS = ("watchdog", "ray-head", "interrupts")
"""Names of the threads that watch over a run."""
_CALLS, _REPEATS = 2_000, 15

Kind = Literal["warm_up", "counted", "with", "without"]


@dataclass(frozen=True)
class Hook:
    """A function that takes time in each step to supervise the run.

    places: (module or class, attribute) through which callers find it. once: calls it once, with arguments as in a run.
    stub: replaces it in the steps without hooks; None if the run does not work without it.
    """

    name: str
    places: tuple[tuple[Any, str], ...]
    once: Callable[[], Any]
    stub: Callable[..., Any] | None


def kind(step: int) -> Kind:
    """Example: the pairs follow 4 steps of "warm_up" and 6 "counted" ones, so the steps 11 to 14 have the kinds "with",
    "without", "without" and "with"."""
    if step <= WARM_UP:
        return "warm_up"
    if step <= WARM_UP + COUNTED:
        return "counted"
    return "with" if (step - WARM_UP - COUNTED - 1) % 4 in (0, 3) else "without"


class Ledger:
    """Call `turn` where one step ends in this process and the next begins. The file `path` has the results so far."""

    def __init__(self, hooks: Sequence[Hook], path: Path) -> None:
        self._hooks, self._path = hooks, path
        self._originals = [(hook, place, getattr(*place)) for hook in hooks for place in hook.places]
        self._seconds_per_call: dict[str, float] = {}
        self._steps: list[dict[str, Any]] = []
        self._step = 0
        self._calls: Counter[str] = Counter()

    def turn(self) -> None:
        if self._step:
            self._steps.append(self._record())
        self._step += 1
        if self._step == WARM_UP + COUNTED + 1:
            self._install("with")
            self._seconds_per_call = {hook.name: seconds_per_call(hook.once) for hook in self._hooks}
        if self._step > WARM_UP + COUNTED:
            self._path.write_text(json.dumps({"seconds_per_call": self._seconds_per_call, "steps": self._steps}))
        self._install(kind(self._step))
        self._calls.clear()
        self._wall, self._cpu, self._watchers = time.perf_counter(), time.process_time(), watchers_seconds()

    def _record(self) -> dict[str, Any]:
        """Facts about the step that ends. wall: its seconds. cpu: processor seconds of all threads of this process.
        watchers: processor seconds of each thread that WATCHERS names."""
        wall, cpu, watchers = time.perf_counter(), time.process_time(), watchers_seconds()
        return {
            "kind": kind(self._step),
            "wall": wall - self._wall,
            "cpu": cpu - self._cpu,
            "watchers": {name: seconds - self._watchers.get(name, 0.0) for name, seconds in watchers.items()},
            "calls": dict(self._calls),
        }

    def _install(self, now: Kind) -> None:
        for hook, place, function in self._originals:
            if now == "counted":
                setattr(*place, self._counting(hook.name, function))
            elif now == "without" and hook.stub is not None:
                setattr(*place, hook.stub)
            else:
                setattr(*place, function)

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counting(*arguments: Any) -> Any:
            self._calls[name] += 1
            return function(*arguments)

        return counting


def seconds_per_call(once: Callable[[], Any]) -> float:
    """The median over several loops, minus the time of an empty call."""
    return median(_loop(once) for _ in range(_REPEATS)) - median(_loop(lambda: None) for _ in range(_REPEATS))


def _loop(once: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(_CALLS):
        once()
    return (time.perf_counter() - start) / _CALLS


def watchers_seconds() -> dict[str, float]:
    """Name -> processor seconds since the thread's start, for each thread of this process that WATCHERS names."""
    watching = [thread for thread in threading.enumerate() if thread.name in WATCHERS and thread.ident is not None]
    return {
        thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in watching
        if thread.ident is not None
    }
