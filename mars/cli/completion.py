"""What a shell offers on TAB beside commands and options: runs, experiments, choices of groups, names of settings.

Each function gets the word typed so far, and returns whole words that begin with it. If there is none, bash offers
files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from mars.cli.run_folders import MAX_DEPTH, run_dirs

_RUNS = Path("runs")


def complete_run(incomplete: str) -> list[str]:
    """Run directories in runs/, and those beside what is typed."""
    found = list(run_dirs(_RUNS)) if _RUNS.is_dir() else []
    beside = Path(os.path.dirname(incomplete))
    if beside not in (Path(), _RUNS) and beside.is_dir():
        found += run_dirs(beside, depth=MAX_DEPTH - 1)
    return sorted({str(path) for path in found if str(path).startswith(incomplete)})


def complete_key(incomplete: str) -> list[str]:
    """Names of settings of a training."""
    from mars.config.keys import leaves
    from mars.config.schema import TrainConfig

    return [key for key in leaves(TrainConfig) if key.startswith(incomplete)]


def complete_choice(context: typer.Context, incomplete: str) -> list[str]:
    """`group=choice` for each choice of each group, such as experiment=quickstart."""
    return choices(_words(context), incomplete)


def complete_config(context: typer.Context, incomplete: str) -> list[str]:
    """Experiments and run directories, or `group=choice`."""
    previous = _words(context)
    if previous[-1:] == ["="]:
        return choices(previous, incomplete)
    experiments = [name for name in _groups()["experiment"] if name.startswith(incomplete)]
    return [*experiments, *complete_run(incomplete), *choices(previous, incomplete)]


def choices(previous: Sequence[str], incomplete: str) -> list[str]:
    """previous: the words before. bash splits "experiment=qui" into three words, and completes the last one."""
    if len(previous) > 1 and previous[-1] == "=":
        return [choice for choice in _groups().get(previous[-2], []) if choice.startswith(incomplete)]
    every = [f"{group}={choice}" for group, names in _groups().items() for choice in names]
    return [word for word in every if word.startswith(incomplete)]


def _groups() -> dict[str, list[str]]:
    from mars.config.folders import groups, shipped_folder

    return groups("train", [shipped_folder()])


def _words(context: typer.Context) -> list[str]:
    """The words of the command line that the command's last parameter has taken so far."""
    return [str(word) for value in context.params.values() if isinstance(value, list | tuple) for word in value]
