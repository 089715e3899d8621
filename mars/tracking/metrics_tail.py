"""Reads a metrics.jsonl while its run writes it. Each call parses only what was added."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mars.tracking.jsonl import parse_row

_COMPARED = 256  # bytes before the place where the last look ended


class MetricsTail:
    """The rows of a growing metrics.jsonl, in the order of steps. keep: which keys to keep, besides "step".

    damaged: number of lines so far that are not rows; they are left out.

    A resumed run drops the rows after its checkpoint, in place or in a new file. So each call compares the end of what
    it has read with the file. If they differ, the file is read from its beginning.
    """

    def __init__(self, path: Path, keep: Callable[[str], bool]) -> None:
        self._path = path
        self._keep = keep
        self._forget()

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        """All rows so far. Lines of the same step are one row, as in `read_metrics`."""
        return self._in_order

    def read(self) -> None:
        """Add what was written to the file since the last call; without a file there are no rows. An incomplete last
        line is left for the next call. Raises OSError."""
        try:
            file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - closed by `with`
        except FileNotFoundError:
            self._forget()
            return
        with file:
            inode, seen = os.fstat(file.fileno()).st_ino, self._offset - len(self._end)
            if inode != self._inode or os.pread(file.fileno(), len(self._end), seen) != self._end:
                self._forget()
                self._inode = inode
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        if newline:
            self._add(whole + newline)

    def _add(self, block: bytes) -> None:
        for line in block.splitlines():
            row = parse_row(line)
            if row is None:
                self.damaged += 1
            else:
                kept = {key: value for key, value in row.items() if key == "step" or self._keep(key)}
                self._rows.setdefault(row["step"], {}).update(kept)
        self._offset += len(block)
        self._end = (self._end + block)[-_COMPARED:]
        self._in_order = tuple(self._rows[step] for step in sorted(self._rows))

    def _forget(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}
        self._in_order: tuple[dict[str, Any], ...] = ()
        self.damaged = 0
        self._offset = 0
        self._end = b""  # the last bytes before _offset
        self._inode: int | None = None
