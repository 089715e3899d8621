"""A progress bar on stderr, removed at its end. Without a terminal nothing is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """Yield `items` while a bar counts them up to `total`."""
    from rich.progress import track

    from mars.output.console import VisibleConsole

    console = VisibleConsole(stderr=True)
    if not console.is_terminal:
        return items
    return track(items, title, total=total, console=console, transient=True)
