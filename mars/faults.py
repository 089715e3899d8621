"""Named places at which a test makes a process fail: MARS_FAULT="checkpoint.before_rename:kill@2".

MARS_FAULT lists `point:action` or `point:action@n` (the n-th time that the process passes the point; 1 if not given),
separated by commas. Actions: kill (SIGKILL to the own process), stop (SIGSTOP), no_space (OSError ENOSPC from then on).
Without the variable a point costs one lookup.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

_VARIABLE = "MARS_FAULT"
_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Fail here if MARS_FAULT says so. Raises OSError for no_space, ValueError for a MARS_FAULT that is malformed."""
    planned = os.environ.get(_VARIABLE)
    if planned is None:
        return
    _passed[name] += 1
    for entry in planned.split(","):
        place, colon, action = entry.strip().partition(":")
        if not colon:
            raise ValueError(f"{_VARIABLE}: want point:action@number; got {entry!r}")
        if place == name:
            action, _, number = action.partition("@")
            _act(action, int(number or 1), _passed[name])


def _act(action: str, number: int, passed: int) -> None:
    match action:
        case "kill" if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop" if passed == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        case "no_space" if passed >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "kill" | "stop" | "no_space":
            return
        case _:
            raise ValueError(f"{_VARIABLE}: want kill, stop or no_space; got {action!r}")
