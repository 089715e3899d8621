"""Named points at which a test makes a process fail: MARS_FAULT="checkpoint.before_rename:kill@2".

MARS_FAULT lists `point:action` or `point:action@n`, separated by commas. The action happens the n-th time that the
process passes the point (by default the first time). Actions: kill (SIGKILL to the own process), stop (SIGSTOP), raise
(RuntimeError), no_space (OSError ENOSPC, also at every later pass). With MARS_FAULT_ONCE=folder each entry acts once
for all processes together; the folder has a file for each entry that has acted.

Points of the driver: step.{samples,sampled,updated,logged}, checkpoint.{started,shards_written,before_manifest,
before_rename,before_latest}. Of an engine: engine.{samples,load_weights}, weights.bucket_received. Of a rank:
actor.{before_update,after_update,shard_written}, weights.bucket_sent. Of the reader and the stores of images
(data.transport=object_store): images.asked, images.bring.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from pathlib import Path

_PLAN, _ONCE = "MARS_FAULT", "MARS_FAULT_ONCE"
_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Fail here if MARS_FAULT says so. Raises what its action says, and ValueError for a malformed MARS_FAULT."""
    plan = os.environ.get(_PLAN)
    if plan is None:
        return
    _passed[name] += 1
    for entry in plan.split(","):
        place, colon, action = entry.strip().partition(":")
        action, _, number = action.partition("@")
        if not colon or action not in ("kill", "stop", "raise", "no_space"):
            raise ValueError(f"{_PLAN}: want point:kill, stop, raise or no_space, then @number; got {entry!r}")
        due = int(number or 1)
        if place == name and (_passed[name] == due or (action == "no_space" and _passed[name] > due)) and _first(entry):
            _fail(action, name)


def _first(entry: str) -> bool:
    folder = os.environ.get(_ONCE)
    if folder is None:
        return True
    try:
        (Path(folder) / entry.strip()).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fail(action: str, name: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise RuntimeError(f"fault at {name}")
        case _:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
