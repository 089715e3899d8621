"""metrics.jsonl, the truth about a run: one JSON object per step."""

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
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


def finite_or_none(value: Any) -> float | int | None:
    """A number as strict JSON can hold it: NaN and infinities, and what is no number, become None."""
    if type(value) is int:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several elements
        return None
    return number if math.isfinite(number) else None


def to_line(row: Mapping[str, Any]) -> bytes:
    """One line of strict JSON. Keys sorted; floats round-trip; ASCII, so that `cat` shows no control characters."""
    return (json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


class JsonlTracker:
    """Writes {"step": n, key: value, ...} for each `log`, in the file before `log` returns.

    resumed_step: None for a new run, whose file must not hold rows yet. A run resumed after step n keeps the rows up
        to n and drops the abandoned attempt's later rows, so no step stands twice.

    Non-finite values are written as null. A row that cannot be written (disk full) is kept and written with the next
    one, in order: a failing disk ends no run and loses no row unless it is still failing at `close`.

    Raises ConfigError: the file holds rows of another run.
    """

    def __init__(self, path: Path, resumed_step: int | None) -> None:
        self._path = path
        self._unwritten: list[bytes] = []
        self._failing = False
        self._torn = False  # the file may end in half a row, after _size
        path.parent.mkdir(parents=True, exist_ok=True)
        if resumed_step is None and path.exists() and path.stat().st_size:
            raise ConfigError(
                f"run.dir: {path} holds the metrics of another run; got a new run; "
                "choose another run.dir, or remove the old one"
            )
        if resumed_step is not None:
            _keep_until(path, resumed_step)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for the whole run, closed by close()
        self._size = self._file.seek(0, os.SEEK_END)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        row = {key: finite_or_none(value) for key, value in metrics.items()}
        self._unwritten.append(to_line({**row, "step": step}))
        self._flush()

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        """Rollouts have files of their own."""

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
                logger.warning("%s: %s; training goes on, the rows are kept and tried again", self._path, error)
            self._failing = self._torn = True
            return
        self._unwritten.clear()
        self._failing = False
        self._size = self._file.tell()


@dataclass(frozen=True)
class MetricRows:
    """rows: by step, each with its "step". damaged: lines that are no JSON object with a step."""

    rows: tuple[dict[str, Any], ...]
    damaged: int


def read_metrics(path: Path) -> MetricRows:
    """The rows of a metrics.jsonl in step order; lines of the same step are one row, the later value wins."""
    rows: dict[int, dict[str, Any]] = {}
    damaged = 0
    for line in path.read_bytes().splitlines():
        row = _parse(line)
        if row is None:
            damaged += 1
        else:
            rows.setdefault(row["step"], {}).update(row)
    return MetricRows(tuple(rows[step] for step in sorted(rows)), damaged)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _keep_until(path: Path, step: int) -> None:
    """Drop the rows after `step` and a torn last line; the file is replaced whole."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (row := _parse(line)) is not None and row["step"] <= step]
    if len(kept) < len(lines):
        logger.warning("%s: %d rows after step %d are dropped", path, len(lines) - len(kept), step)
        draft = path.with_name(f".tmp-{path.name}")
        draft.write_bytes(b"".join(kept))
        os.replace(draft, path)
