"""mars.log during a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mars.process import RunLog, log_to


@contextmanager
def logging_to(folder: Path) -> Iterator[RunLog]:
    """All lines of mars' loggers go to folder/mars.log during the block. Yields the handler that writes them."""
    logger = logging.getLogger("mars")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    log_to(str(folder))
    handler = next(handler for handler in logger.handlers if isinstance(handler, RunLog))
    try:
        yield handler
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
