"""`python -m mars.sft [--config-dir DIR] [--cfg job] [--dry-run] [key=value ...]`: a supervised cold start.

It teaches a policy to give the responses of rows, by next-token cross-entropy, so that the policy knows the response
format before reinforcement learning. The code of model, optimizer and checkpoints is that of `python -m mars.main`.

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
    """Train, or show or check the configuration. Returns the exit code.

    Raises MarsError, which `mars.process.run_command` reports.
    """
    from mars.config.command_line import parse_command_line

    line = parse_command_line("sft", "python -m mars.sft", argv)
    from mars.config.load import composed_yaml, load_config

    if line.show_config:
        sys.stdout.write(composed_yaml("sft", line.overrides, line.config_dirs))
        return 0
    config = load_config("sft", line.overrides, line.config_dirs)
    if line.dry_run:
        from mars.job import check_run_dir

        check_run_dir(config)
        from mars.supervised.dry_run import report

        report(config)
        return 0
    train(config, line.overrides)
    return 0


def train(config: SftConfig, overrides: Sequence[str]) -> None:
    """Train. overrides: those of the command line, for the record of the run."""
    from pathlib import Path

    from mars.checkpoint.entry import check_enterable, enter
    from mars.cluster.environment import gc_paused, prepare_process
    from mars.run_dir.lock import RunLock

    run_dir = Path(config.run.dir)
    check_enterable(run_dir, config.run.resume)
    with RunLock(run_dir) as lock:
        if run_dir.exists():  # a new one is made when rows and model have been checked
            enter(run_dir, lock, config.run.resume)
        prepare_process(config.cluster.kind, config.cluster.threads_per_worker, config.cluster.device)
        with gc_paused():
            from mars.supervised.job import run
        run(config, overrides, lock)


if __name__ == "__main__":
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(lambda: main(sys.argv[1:]))
