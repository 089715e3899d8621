"""transformers without its progress bars ("Loading weights", "Writing model shards"), which cut up lines of mars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars inside the block. Outside they stay: the one of a download tells how long that will take."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
