"""Finds the run directories in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MAX_DEPTH = 4
"""How many levels of folders below the given one are searched."""


def run_dirs(folder: Path, depth: int = 0) -> Iterable[Path]:
    """`folder` if it is a run directory, else those at most MAX_DEPTH - `depth` levels below it, in the order of names.

    Links are not followed. Folders inside a run directory are not searched.
    """
    from mars.report.run_record import CONFIG_FILE
    from mars.run_dir.events import EVENTS_FILE
    from mars.tracking.jsonl import METRICS_FILE

    if (folder / CONFIG_FILE).is_file() and any((folder / name).is_file() for name in (METRICS_FILE, EVENTS_FILE)):
        yield folder
    elif depth < MAX_DEPTH:
        try:
            inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        except PermissionError:
            return
        for path in inside:
            yield from run_dirs(path, depth + 1)
