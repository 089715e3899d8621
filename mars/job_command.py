"""What the commands `python -m mars.main` and `python -m mars.sft` share.

Functions import what they need, so that signals are handled from the first milliseconds on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mars.config.load import RootName
    from mars.config.schema import SftConfig, TrainConfig
    from mars.run_dir.lock import RunLock


def run_job(
    root: RootName, argv: Sequence[str], check: Callable[[Any], None], start: Callable[[Any, Sequence[str]], None]
) -> int:
    """Start the job of `root`, or show or check its configuration, as the command line says. Returns the exit code.

    check: for --dry-run; gets the configuration. start: gets the configuration and the overrides of the command line.
    Imports torch and the like only after the configuration is valid.
    Raises MarsError, which `mars.process.run_command` reports.
    """
    from mars.config.command_line import PROGRAMS, parse_command_line

    line = parse_command_line(root, PROGRAMS[root], argv)
    from mars.config.load import composed_yaml, load_config

    if line.show_config:
        sys.stdout.write(composed_yaml(root, line.overrides, line.config_dirs))
        return 0
    config = load_config(root, line.overrides, line.config_dirs)
    if line.dry_run:
        from mars.job import check_run_dir

        check_run_dir(config)
        check(config)
    else:
        start(config, line.overrides)
    return 0


@contextmanager
def entered_job(config: TrainConfig | SftConfig) -> Iterator[RunLock]:
    """Lock run.dir and prepare this process for the job. Yields the lock, which is released at the end.

    A new run.dir is not made yet: `mars.job.enter_run` makes it when rows and model have been checked.
    Raises BusyError, SetupError or ConfigError as `mars.checkpoint.entry.enter` does.
    """
    from pathlib import Path

    from mars.checkpoint.entry import check_enterable, enter
    from mars.cluster.environment import prepare_process
    from mars.run_dir.lock import RunLock

    run_dir = Path(config.run.dir)
    check_enterable(run_dir, config.run.resume)
    with RunLock(run_dir) as lock:
        if run_dir.exists():
            enter(run_dir, lock, config.run.resume)
        prepare_process(config.cluster.kind, config.cluster.threads_per_worker, config.cluster.device)
        yield lock
