"""End a process early and within seconds, on a signal or on the request of a thread.

SIGTERM, SIGHUP and Ctrl-C raise KeyboardInterrupt in the main thread, so that `with` blocks and `finally` stop what was
started. The exception does not interrupt a C function, and a library may swallow it. So after `_GRACE_S` seconds, or at
a second signal, a thread ends the process. What must not outlive the process has to end by itself then
(mars/cluster/guard.py).

A command calls `end_at_once` before it imports anything else, and works inside `handled`.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from mars import last_words
from mars.errors import InterruptedRun, MarsError

_GRACE_S = 6.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_STOP = b"\0"  # no signal's number
_SECOND_CTRL_C_EXIT_CODE = 130
_START_AGAIN = "start the command again"


class _Interrupts:
    """reason: why the process ends early; None while it goes on.

    quiet: a signal raises no exception. True before `listen`, after the first KeyboardInterrupt, and after `finish`.
    deferred: see `defer`. held: see `hold`. hooks_hang: see `skip_exit_hooks`.
    """

    def __init__(self, report: Callable[[MarsError], None]) -> None:
        self.reason: MarsError | None = None
        self.consequence = _START_AGAIN
        self.quiet = True
        self.deferred = False
        self.held = False
        self.reported = False
        self.hooks_hang = False
        self.grace_s = _GRACE_S
        self.since = 0.0  # when `reason` was set
        self.signals = tuple(number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN)
        self._report = report
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def start(self) -> None:
        self._before = {number: _before.pop(number, signal.getsignal(number)) for number in self.signals}
        self.arm()
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def stop(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.write(self._wake_write, _STOP)

    def arm(self) -> None:
        for number in self.signals:
            signal.signal(number, self._handle)
        # Python writes the number of each signal here, even while the main thread is inside a C function.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def begin(self, reason: MarsError) -> bool:
        """Set the reason. Returns False without setting it if there is one already, or for a signal after `hold`."""
        with self._lock:
            first = self.reason is None and not (self.held and isinstance(reason, InterruptedRun))
            if first:
                self.reason, self.since = reason, time.monotonic()
            return first

    def of_signal(self, number: int) -> InterruptedRun:
        return InterruptedRun(f"interrupted by {signal.Signals(number).name}; {self.consequence}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.begin(self.of_signal(number))
        self.raise_reason()

    def raise_reason(self) -> None:
        if self.reason is not None and not self.quiet and not self.deferred:
            self.quiet = True
            # Ray's functions turn any other exception of a handler into a SystemError, or go on waiting.
            raise KeyboardInterrupt

    def hold(self) -> None:
        with self._lock:
            self.held = True
        self.raise_reason()

    def settle(self) -> None:
        with self._lock:
            self.reason, self.held = None, True  # `held` ignores this signal if `_watch` reads it later

    def _watch(self) -> None:
        deadline: float | None = None
        num_signals = 0
        while True:
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._wake_read], [], [], timeout)[0]:
                if self.reason is not None:
                    self.end_now()
                deadline = None  # settled
                continue
            byte = os.read(self._wake_read, 1)
            if byte == _STOP:
                os.close(self._wake_read)
                os.close(self._wake_write)
                return
            number = byte[0]
            if number in self.signals:
                num_signals += 1
                error = self.of_signal(number)
                self.begin(error)
                if num_signals > 1:
                    self._end(error, _SECOND_CTRL_C_EXIT_CODE if number == signal.SIGINT else error.exit_code)
            if self.reason is not None and deadline is None:
                deadline = time.monotonic() + self.grace_s

    def end_now(self) -> NoReturn:
        assert self.reason is not None
        self._end(self.reason, self.reason.exit_code)

    def _end(self, error: MarsError, code: int) -> NoReturn:
        last_words.say(error, code, None if self.reported else self._report)
        os._exit(code)


_installed: _Interrupts | None = None
# The handlers that `end_at_once` has replaced, by signal number.
_before: dict[int, Any] = {}


def end_at_once() -> None:
    """Until `handled` is entered, a signal ends the process with one line and the exit code of an interruption.

    For the time before the process has started anything that must be stopped. Signals that are ignored stay ignored
    (nohup).
    """
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            _before[number] = signal.signal(number, _end_at_once)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    error = InterruptedRun(f"interrupted by {signal.Signals(number).name}; {_START_AGAIN}")
    with suppress(OSError):
        os.write(2, f"{error}\n".encode())
    os._exit(error.exit_code)


@contextmanager
def handled(report: Callable[[MarsError], None]) -> Iterator[None]:
    """Handle SIGTERM, SIGHUP and Ctrl-C in the block. Only for the main thread. Ignored signals stay ignored (nohup).

    report: prints why the process ends. It is called only if a thread other than the main thread ends the process.
    """
    global _installed
    _installed = _Interrupts(report)
    _installed.start()
    try:
        yield
    finally:
        _installed.stop()
        _installed = None


def rearm() -> None:
    """Install these handlers again after a library has installed its own. Call it in the main thread."""
    if _installed is not None:
        _installed.arm()


def end_now(error: MarsError) -> bool:
    """Called by a thread: report the error and end the process, unless the process is ending already.

    For failures after which the main thread must not go on, not even to clean up. Returns False outside `handled`.
    """
    if _installed is None:
        return False
    if _installed.begin(error):
        _installed.end_now()
    return True


def ends_with(error: MarsError) -> None:
    """Record that the process ends early because of this error, which the main thread is raising. The process then ends
    without the exit hooks of libraries, because they could wait for ever."""
    if _installed is not None:
        _installed.begin(error)


def skip_exit_hooks() -> None:
    """Let the command end without the exit hooks of libraries, and with its own exit code.

    Called when a library (Ray) did not shut down in time: its exit hook might hang or change the exit code.
    """
    if _installed is not None:
        _installed.hooks_hang = True


def exit_hooks_hang() -> bool:
    """Whether `skip_exit_hooks` was called."""
    return _installed is not None and _installed.hooks_hang


def reason() -> MarsError | None:
    """Why the process is ending early, None while it goes on."""
    return None if _installed is None else _installed.reason


def is_urgent() -> bool:
    """Whether the process is ending early and half of its grace time has passed, so no time is left for new work."""
    return (
        _installed is not None
        and _installed.reason is not None
        and time.monotonic() - _installed.since > _installed.grace_s / 2
    )


def listen() -> None:
    """From now on a signal raises KeyboardInterrupt. If a signal came before, KeyboardInterrupt is raised now."""
    if _installed is not None:
        _installed.quiet = False
        _installed.raise_reason()


def hold() -> None:
    """From now on the first signal changes nothing, because the work is about to end. A second one ends the process."""
    if _installed is not None:
        _installed.hold()


def say_consequence(text: str) -> None:
    """Set the end of the message of an interruption, which says what the interruption means for the process's work."""
    if _installed is not None:
        _installed.consequence = text


def consequence() -> str:
    """The text that `say_consequence` has set."""
    return _START_AGAIN if _installed is None else _installed.consequence


def set_grace(seconds: float) -> None:
    """Set the longest time from a signal to the end of the process."""
    if _installed is not None:
        _installed.grace_s = seconds


def defer() -> None:
    """From now on a signal raises KeyboardInterrupt only at `allow`.

    If the grace time after the signal passes before `allow` is called, the process ends.
    """
    if _installed is not None:
        _installed.deferred = True


def allow() -> None:
    """End `defer`. Raises KeyboardInterrupt if a signal has come meanwhile. Call it in the main thread."""
    if _installed is not None:
        _installed.deferred = False
        _installed.raise_reason()


def settle() -> None:
    """Forget the interruption, because it has had its effect, for example on other processes. This process goes on, and
    ends with its own exit code.

    A second signal still ends it at once.
    """
    if _installed is not None:
        _installed.settle()


def finish() -> MarsError | None:
    """Raise no more KeyboardInterrupt: the main thread is ending and reports. Returns `reason()`."""
    if _installed is not None:
        _installed.quiet = _installed.reported = True
    return reason()
