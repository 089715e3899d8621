"""One call in a thread of its own, beside what the main thread does. It can be stopped wherever it waits."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_S = 0.5
_LEAVE_S = 5.0
"""How long an interrupted process waits for the call to stop."""


class Stopped(Exception):
    """Raised inside a call that was stopped."""


_of_thread = threading.local()


def check() -> None:
    """Raise `Stopped` in the thread of a `Background` whose result nobody wants any more. Elsewhere it does nothing.

    To be called, about twice a second, by whatever waits for other processes: engines, a new worker, rewards.
    """
    stop: threading.Event | None = getattr(_of_thread, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped


class Background(Generic[T]):
    """Calls `call` in a thread. At the end of a `with` block it stops the call and
    waits until it has ended; `__exit__` says when it waits for a limited time only.

    call: is stopped where it calls `check`. name: of the thread.

    >>> with Background(lambda: 6 * 7, name="answer") as answer:
    ...     answer.result()
    42
    """

    def __init__(self, call: Callable[[], T], name: str) -> None:
        self._call, self._stop = call, threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._was_asked = False
        self.ended_at = math.inf  # time.perf_counter() at the end of the call; read it after `result`
        self.given_up = False
        # A daemon: the end of an interrupted process does not wait for it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Background[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """After an error of the block the call is stopped and waited for: nobody else may use what it uses.

        After an interruption (KeyboardInterrupt), or if it was given up, it is waited for only 5 s: the process ends.
        """
        self._stop.set()
        self._thread.join(_LEAVE_S if isinstance(error, KeyboardInterrupt) or self.given_up else None)
        if self._error is not None and not self._was_asked and not isinstance(self._error, Stopped):
            logger.warning("%s: failed too: %s", self._thread.name, self._error, exc_info=self._error)

    def result(self, give_up: Callable[[], bool] = lambda: False) -> T | None:
        """Wait for the call; return its result, or raise its exception here. None once `give_up()` says so."""
        while self._thread.is_alive():
            self._thread.join(_LOOK_S)  # not for longer, so that a signal is handled
            if self._thread.is_alive() and give_up():
                self.given_up = True
                return None
        self._was_asked = True
        if self._error is not None:
            raise self._error
        return self._found[0]

    def _run(self) -> None:
        _of_thread.stop = self._stop
        try:
            self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001 raised again in the thread that waits
            self._error = error
        self.ended_at = time.perf_counter()
