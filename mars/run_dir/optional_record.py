"""Files that a run can do without."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


class OptionalRecord:
    """Lets a run go on if a file cannot be written. Of several failures in a row, the first is logged as a warning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The block writes the file. An OSError of the block is not raised further."""
        try:
            yield
        except OSError as error:
            if not self._failing:
                logger.warning("%s: %s; the run goes on without this record", self._path, error.strerror or error)
            self._failing = True
        else:
            self._failing = False
