"""Hides transformers' progress bars ("Loading weights", "Writing model shards"), which break up lines of mars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars during the block. Elsewhere they stay, because the bar of a download shows how long it will take."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
