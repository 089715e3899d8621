"""Finds the run directories in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

MAX_DEPTH = 4
"""How many levels of folders below the given one are searched."""


def run_dirs(folder: Path, depth: int = 0, skipped: Callable[[Path, OSError], object] | None = None) -> Iterable[Path]:
    """`folder` if it is a run directory, else those at most MAX_DEPTH - `depth` levels below it, in the order of names.

    Links are not followed. Folders inside a run directory are not searched. Folders that cannot be read are left out;
    skipped: called with each of them, and the reason.
    """
    try:
        found = is_run_dir(folder)
        inside = [] if found or depth >= MAX_DEPTH else _folders_in(folder)
    except OSError as error:
        if skipped is not None:
            skipped(folder, error)
        return
    if found:
        yield folder
    for path in inside:
        yield from run_dirs(path, depth + 1, skipped)


def is_run_dir(folder: Path) -> bool:
    """Whether `folder` has the files of a run. Raises OSError if it cannot be read."""
    from mars.config.folders import CONFIG_FILE
    from mars.run_dir.events import EVENTS_FILE
    from mars.tracking.jsonl import METRICS_FILE

    return (folder / CONFIG_FILE).is_file() and any((folder / name).is_file() for name in (METRICS_FILE, EVENTS_FILE))


def _folders_in(folder: Path) -> list[Path]:
    """The folders in `folder`, without links; empty if it is not a folder itself."""
    return (
        sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()) if folder.is_dir() else []
    )
