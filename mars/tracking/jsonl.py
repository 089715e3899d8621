"""metrics.jsonl, the complete record of a run's metrics: one JSON object per step."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.errors import ConfigError
from mars.output.files import cannot_write, replacing
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
_SHOWN_LINES = 5


def finite_or_none(value: Any) -> float | int | None:
    """`value` as a number for strict JSON; None for NaN, infinities and values that are not numbers."""
    if type(value) is int:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several elements
        return None
    return number if math.isfinite(number) else None


def to_line(row: Mapping[str, Any]) -> bytes:
    """One line of strict JSON with sorted keys. Floats are exact. ASCII, so a terminal gets no control characters."""
    return (json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


class JsonlTracker:
    """Writes one row {"step": n, key: value, ...} per `log`; the row is in the file when `log` returns.

    resumed_step: None for a new run, whose file must be empty or missing. A run resumed after step n keeps the rows up
        to n. Later rows of the earlier attempt and damaged lines are dropped, each with a warning.

    Non-finite values become null. If a row cannot be written (disk full), it is kept in memory and written with the
    next row, in order. So rows are lost only if the disk is still full at `close`.

    The constructor raises ConfigError if resumed_step is None and the file has rows, SetupError if it cannot open or
    write the file.
    """

    def __init__(self, path: Path, resumed_step: int | None) -> None:
        self._path = path
        self._unwritten: list[bytes] = []
        self._failing = False
        self._torn = False  # True: the file may have part of a row after its first _size bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        if resumed_step is None and path.exists() and path.stat().st_size:
            raise ConfigError(
                f"run.dir: {path} holds the metrics of another run, and a new run needs a file of its own; "
                "choose another run.dir, or remove the old one"
            )
        try:
            if resumed_step is not None:
                _keep_until(path, resumed_step)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for the whole run, closed by close()
        except OSError as error:
            raise cannot_write(path, error, "run.dir") from error
        self._size = self._file.seek(0, os.SEEK_END)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        row = {key: finite_or_none(value) for key, value in metrics.items()}
        self._unwritten.append(to_line({**row, "step": step}))
        self._flush()

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        """Does nothing: RolloutFiles writes the rollouts."""

    def close(self) -> None:
        self._flush()
        if self._unwritten:
            logger.error("%s: the last %d rows could not be written", self._path, len(self._unwritten))
        self._file.close()

    def _flush(self) -> None:
        block = memoryview(b"".join(self._unwritten))
        try:
            if self._torn:
                self._file.truncate(self._size)
                self._torn = False
            while block:
                block = block[self._file.write(block) :]
        except OSError as error:
            if not self._failing:
                logger.warning("%s: %s; training goes on, and the rows are written later", self._path, error)
            self._failing = self._torn = True
            return
        self._unwritten.clear()
        self._failing = False
        self._size = self._file.tell()


@dataclass(frozen=True)
class MetricRows:
    """rows: in step order, each with its "step". damaged: number of lines that are not JSON objects with a step."""

    rows: tuple[dict[str, Any], ...]
    damaged: int


def read_metrics(path: Path) -> MetricRows:
    """Read a metrics.jsonl. Lines of the same step are merged into one row, in which later values replace earlier
    ones."""
    rows: dict[int, dict[str, Any]] = {}
    damaged = 0
    for line in path.read_bytes().splitlines():
        row = parse_row(line)
        if row is None:
            damaged += 1
        else:
            rows.setdefault(row["step"], {}).update(row)
    return MetricRows(tuple(rows[step] for step in sorted(rows)), damaged)


def parse_row(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is not a JSON object with a step."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _keep_until(path: Path, step: int) -> None:
    """Drop rows after `step` and damaged lines, with a warning for each of the two."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    rows = [parse_row(line) for line in lines]
    damaged = [number for number, row in enumerate(rows, start=1) if row is None]
    kept = [line for line, row in zip(lines, rows, strict=True) if row is not None and row["step"] <= step]
    num_later = len(lines) - len(damaged) - len(kept)
    if num_later:
        logger.warning("%s: rows after step %d are dropped: %d", path, step, num_later)
    if damaged:
        shown = ", ".join(map(str, damaged[:_SHOWN_LINES])) + (", ..." if len(damaged) > _SHOWN_LINES else "")
        logger.warning("%s: damaged lines are dropped, and their metrics are lost: %d (line %s)", path, len(damaged),
                       shown)  # fmt: skip
    if len(kept) == len(lines):
        return
    if kept == lines[: len(kept)]:  # needs no room, on a full disk
        os.truncate(path, sum(map(len, kept)))
        return
    with replacing(path) as draft:
        draft.write_bytes(b"".join(kept))
