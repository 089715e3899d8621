"""The files of a data set: their rows as stored, and the fingerprint of their contents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.data.rows.problems import RowError
from mars.errors import DataError

ROWS_PER_READ = 256
COLUMNS = (
    "data_source", "prompt", "problem", "images", "image", "reward_model", "answer", "extra_info", "response",
)  # fmt: skip
JSON_DEPTH = "depth_spatialbot"  # of 16-bit depth in the public JSON files, which declare nothing
FORMATS = (".parquet", ".jsonl", ".json")


class FileError(Exception):
    """The file itself, not one of its rows, cannot be read."""


@dataclass(frozen=True)
class StoredRow:
    """A row as it is on disk. label: "file:number". columns: None where the row itself cannot be parsed.

    problem: why a record of a JSON file is no row; its columns are None then.
    """

    file: str
    file_index: int
    number: int
    columns: Mapping[str, Any] | None
    problem: RowError | None = None

    @property
    def label(self) -> str:
        return f"{self.file}:{self.number}"


def unusable_files(files: Sequence[str], image_root: str | None) -> list[str]:
    """What is wrong with the files before any is opened."""
    found = [] if files else ["data: no files given; name at least one .parquet or .jsonl file"]
    seen: set[str] = set()
    for file in files:
        real = os.path.realpath(file)
        if os.path.isdir(file):
            found.append(f"{file}: is a folder; name its .parquet or .jsonl files")
        elif not os.path.isfile(file):
            found.append(f"{file}: no such file")
        elif Path(file).suffix not in FORMATS:
            found.append(f"{file}: unknown kind of file; use {' or '.join(FORMATS)}")
        elif real in seen:
            found.append(f"{file}: named twice; name every file once")
        seen.add(real)
    if image_root is not None and not os.path.isdir(image_root):
        found.append(f"data.image_root: no such folder; got {image_root}")
    return found


def fingerprint_of(files: Sequence[str]) -> str:
    """Hash of the files' contents in order; names and places do not matter."""
    whole = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def chunks(file: str, index: int, image_root: str | None) -> Iterator[list[StoredRow]]:
    """The file's rows, a few hundred at a time: rows with embedded images can be large. Raises FileError.

    A .json file is read as `mars data convert eval_json` reads it; image_root is where it looks for its images.
    """
    if file.endswith(".json"):
        yield from _json_chunks(file, index, image_root)
        return
    read = _parquet_chunks if file.endswith(".parquet") else _jsonl_chunks
    number = 0
    for chunk in read(file):
        # Blank lines of a JSONL file hold no row but keep their number.
        yield [StoredRow(file, index, number + i, row) for i, row in enumerate(chunk) if row != {}]
        number += len(chunk)


def _json_chunks(file: str, index: int, image_root: str | None) -> Iterator[list[StoredRow]]:
    from mars.data.convert.eval_json import eval_json_set

    try:
        public = eval_json_set(Path(file), None if image_root is None else Path(image_root), JSON_DEPTH, None)
    except DataError as error:
        raise FileError(str(error)) from error
    chunk = []
    for number, item in enumerate(item for items in public.splits.values() for item in items):
        try:
            chunk.append(StoredRow(file, index, number, public.read(item).columns))
        except RowError as error:
            chunk.append(StoredRow(file, index, number, None, error))
        if len(chunk) == ROWS_PER_READ:
            yield chunk
            chunk = []
    yield chunk


def _parquet_chunks(file: str) -> Iterator[list[Any]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(file) as reader:
            names = [name for name in reader.schema_arrow.names if name in COLUMNS]
            if not names:
                raise FileError(f"none of the columns {', '.join(COLUMNS)}")
            for batch in reader.iter_batches(batch_size=ROWS_PER_READ, columns=names):
                yield batch.to_pylist()
    except (OSError, ValueError, ArrowException) as error:
        raise FileError(str(error)) from error


def _jsonl_chunks(file: str) -> Iterator[list[Any]]:
    chunk = []
    try:
        with open(file, "rb") as lines:
            for line in lines:
                chunk.append(_parse_line(line))
                if len(chunk) == ROWS_PER_READ:
                    yield chunk
                    chunk = []
    except OSError as error:
        raise FileError(str(error)) from error
    yield chunk


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """A JSON object, {} for a blank line, None for anything else."""
    if not line.strip():
        return {}
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():  # half a surrogate pair is no text: it could be neither tokenised nor logged
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and row else None
