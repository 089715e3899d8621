"""`python -m mars.live_report.program RUN`: rewrite RUN/report.html until the run ends, and once more then.

`report_kept` starts it. Its stdin is a pipe to which the run writes when it ends. If the run is killed, the kernel
closes the pipe. The program has the lowest priority, and uses at most a twentieth of one core.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mars.errors import MarsError

EVERY_S = 60
_SHARE = 20  # a pause is at least so many times as long as the work before it
_NICE = 19


class RunOver(Exception):
    """The run has ended, or was killed."""


def pauses(pipe: int, clock: Callable[[], float] = time.process_time) -> Callable[[float], None]:
    """A function that waits for a number of seconds, or for 20 times the CPU time since its last call if that is
    longer.

    pipe: a file descriptor. As soon as it can be read, the function raises RunOver. clock: seconds of CPU time.
    """
    begun = clock()

    def pause(seconds: float) -> None:
        nonlocal begun
        if select.select([pipe], [], [], max(seconds, _SHARE * (clock() - begun)))[0]:
            raise RunOver
        begun = clock()

    return pause


def write_pages(run_dir: Path, pause: Callable[[float], None]) -> None:
    """Write the page until the run has ended or `pause` raises RunOver, then once more, but not if the run was resumed
    meanwhile. A run without anything to show gets no page.

    The first page comes after a pause, so that it does not slow down the start of the run. If a page cannot be written,
    it is tried again after a pause. Raises MarsError or OSError only for the last page.
    """
    from mars.data.pixels.images import decode_image
    from mars.live_report.follow import follow, standing
    from mars.report.run_page import NothingToReport, write_report

    with suppress(RunOver):
        is_over = False
        while not is_over:
            pause(EVERY_S)
            with suppress(MarsError, OSError):
                follow(run_dir, EVERY_S, pause, lambda line: None)
                is_over = True
    now = standing(run_dir)
    if now is not None and now.state == "running":  # it was resumed since, and has a process like this one
        return
    with suppress(NothingToReport):
        write_report(run_dir, None, decode_image, now)


def main(run_dir: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run's end is what ends this process
    os.nice(_NICE)
    try:
        write_pages(Path(run_dir), pauses(0))
    except (MarsError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
