"""`mars chaos`: does a run whose processes are killed train the same policy as an undisturbed one?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.table import Table

from mars.chaos import Disturbed, differences, repeated_steps, schedule, train_disturbed, train_undisturbed
from mars.config.folders import key_of, quoted
from mars.errors import ConfigError
from mars.evaluation.tables import print_table
from mars.output.text import visible
from mars.run_dir.events import read_events

_FIXED = ("run.dir", "run.resume")
_STEPS_PER_MINUTE = 12
_SHOWN = 20


def chaos(folder: Path, minutes: float, mtbf_s: float, seed: int, overrides: Sequence[str]) -> int:
    """Train twice with the same settings, the second time with kills. Print what was killed and what differs.

    minutes: of training in which processes are killed. mtbf_s: mean time between two kills.
    Returns 0 if both runs are equal, else 1. Raises ConfigError, and WorkerError if a run fails.
    """
    given = [text for text in overrides if key_of(text) in _FIXED]
    if given:
        raise ConfigError(f"{given[0]}: `mars chaos` sets {' and '.join(_FIXED)} itself; leave it out")
    if minutes <= 0 or mtbf_s <= 0:
        raise ConfigError(f"--minutes, --mtbf: want numbers > 0; got {minutes:g} and {mtbf_s:g}")
    folder = folder.absolute()
    runs = folder / "undisturbed", folder / "disturbed"
    if any(run.exists() for run in runs):
        raise ConfigError(f"--dir: {folder} holds the runs of another time; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    commands = [_command(run, minutes, overrides) for run in runs]
    sys.stdout.write(f"the undisturbed run trains in {runs[0]}\n")
    seconds = train_undisturbed(commands[0], folder / "undisturbed.log")
    sys.stdout.write(f"it took {seconds:.0f} s; now with kills, in {runs[1]}\n")
    strikes = schedule(seed, mtbf_s, minutes * 60)
    disturbed = train_disturbed(commands[1], runs[1], folder / "disturbed.log", strikes)
    _print_kills(disturbed, runs[1])
    found = differences(*runs)
    for text in found[:_SHOWN]:
        sys.stdout.write(f"{visible(text)}\n")
    result = f"{len(found)} differences" if found else "equal: steps, metrics and the sha256 of the weights"
    sys.stdout.write(f"{result}\n")
    return int(bool(found))


def _command(run: Path, minutes: float, overrides: Sequence[str]) -> list[str]:
    """The caller's settings come after the defaults, so that they take precedence."""
    experiment = [] if any(text.startswith("experiment=") for text in overrides) else ["experiment=quickstart"]
    steps = f"run.num_steps={max(round(minutes * _STEPS_PER_MINUTE), 1)}"
    defaults = [steps, "checkpoint.every=3", "tracking.to=[]"]
    return ["-m", "mars.main", *experiment, *defaults, *overrides, f"run.dir={quoted(str(run))}"]


def _print_kills(disturbed: Disturbed, run: Path) -> None:
    events = read_events(run)
    table = Table("time", "killed", "process", "after step", "steps trained again")
    total = 0
    for kill in disturbed.kills:
        repeated = repeated_steps(kill, events)
        total += repeated or 0
        lost = "0, its prompts" if repeated is None else str(repeated)
        time = datetime.fromtimestamp(kill.time).strftime("%H:%M:%S")
        table.add_row(time, kill.target, str(kill.pid), str(kill.step), lost)
    print_table(table)
    ended = f", {len(disturbed.ended)} of them because too many workers were lost" if disturbed.ended else ""
    sys.stdout.write(
        f"{len(disturbed.kills)} kills in {disturbed.seconds:.0f} s; the driver was started {disturbed.starts} times"
        f"{ended}; {total} steps were trained again\n"
    )
