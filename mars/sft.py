"""`python -m mars.sft [--config-dir DIR] [--cfg job] [--dry-run] [key=value ...]`: a supervised cold start.

It teaches a policy to give the responses of rows, by next-token cross-entropy, so that the policy knows the response
format before reinforcement learning.

Functions import what they need, so that signals are handled from the first milliseconds on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mars import interrupts

if TYPE_CHECKING:
    from mars.config.schema import SftConfig


def main(argv: Sequence[str]) -> int:
    """Train, or show or check the configuration. Returns the exit code. Raises MarsError (`run_job`)."""
    from mars.job_command import run_job

    return run_job("sft", argv, check=_check, start=train)


def _check(config: SftConfig) -> None:
    from mars.supervised.dry_run import report

    report(config)


def train(config: SftConfig, overrides: Sequence[str]) -> None:
    """Train. overrides: the ones of the command line, for the record of the run."""
    from mars.cluster.environment import gc_paused
    from mars.job_command import entered_job

    with entered_job(config) as lock:
        with gc_paused():
            from mars.supervised.job import run
        run(config, overrides, lock)


if __name__ == "__main__":
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(lambda: main(sys.argv[1:]))
