"""`mars watch RUN`: show progress, curves, stages, workers and answers of a run in the terminal."""

from __future__ import annotations

from pathlib import Path

from mars import interrupts
from mars.cli.run_facts import checked_run
from mars.output.console import VisibleConsole
from mars.watch.follow import ending, follow, show_once
from mars.watch.seen import RunReader


def watch(run_dir: Path, *, once: bool) -> None:
    """Show a run until it has ended, or until Ctrl-C. once: print the present state of the run one time,
    as is done without a terminal, and return.

    Raises ConfigError if `run_dir` contains no run.
    """
    reader, console = RunReader(checked_run(run_dir)), VisibleConsole(highlight=False)
    try:
        if once or not console.is_terminal or console.is_dumb_terminal:
            seen = show_once(reader, console)
        else:
            seen = follow(reader, console)
    except KeyboardInterrupt:  # the reader leaves; the run goes on
        interrupts.settle()
        return
    console.print(ending(seen), soft_wrap=True)
