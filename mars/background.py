"""Run one call in a thread while the main thread does other work. The call can be stopped wherever it calls `check`."""

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
    """Raise `Stopped` in the thread of a `Background` that is to stop. In other threads it does nothing.

    Code that waits for other processes (engines, a new worker, rewards) calls it about twice a second.
    """
    stop: threading.Event | None = getattr(_of_thread, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped


class Background(Generic[T]):
    """Calls `call` in a thread. The end of a `with` block stops the call and waits for its end (see `__exit__`).

    name: of the thread.

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
        # A daemon thread, so that the end of an interrupted process does not wait for it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Background[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the call and wait for its end, also after an error in the block: the call may still use shared objects.

        After an interruption (KeyboardInterrupt), or if the call was given up, the wait is at most 5 s, because the
        process is about to end.
        """
        self._stop.set()
        self._thread.join(_LEAVE_S if isinstance(error, KeyboardInterrupt) or self.given_up else None)
        if self._error is not None and not self._was_asked and not isinstance(self._error, Stopped):
            logger.warning("%s: failed too: %s", self._thread.name, self._error, exc_info=self._error)

    def result(self, give_up: Callable[[], bool] = lambda: False) -> T | None:
        """Wait for the call. Return its result, or raise its exception. Return None as soon as `give_up()` is true."""
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
