"""The progress bar of everything long: on stderr, gone when it is done, silent where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """`items` with a bar that counts them up to `total`. Lines printed to stderr meanwhile stand above the bar."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return items
    return track(items, title, total=total, console=console, transient=True)
