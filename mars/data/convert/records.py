"""Read the JSON files of a set: their records in order, and the files' metadata (the set DEMON has some)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.data.convert.output import METADATA_FILE, is_metadata
from mars.errors import DataError
from mars.output.files import read_regular

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class RecordFile:
    """records: the file's records, None for a line that is not JSON in UTF-8.

    metadata: the file's `metadata`, {} without it.
    name: the file's name without its ending, with its folder in front if several files have this name.
    numbers: position of each record in the file, from 0; blank lines are counted.
    """

    name: str
    path: Path
    records: Sequence[Any]
    numbers: Sequence[int]
    metadata: Mapping[str, Any]


def read_record_files(source: Path) -> list[RecordFile]:
    """The file `source`, or the .json and .jsonl files of the folder `source`; if it has none, those of its subfolders.

    Three formats are read: a JSON list of records; {"data": [records], "metadata": {...}}; and one record per line.
    Raises one DataError that names all files that cannot be read or have no records, and OSError if the folder cannot
    be read.
    """
    files, readings, problems = list(_files(source)), [], []
    names = [path.stem for path in files]
    for path in files:
        name = path.stem if names.count(path.stem) == 1 else "_".join(path.relative_to(source).with_suffix("").parts)
        try:
            numbered, metadata = _parsed(path)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path}: cannot be read as JSON: {error}")
            continue
        if not numbered:
            problems.append(f"{path}: has no records")
        readings.append(RecordFile(name, path, list(numbered.values()), list(numbered), metadata))
    if not files:
        problems.append(f"{source}: no .json or .jsonl file there; give the file, or the folder that holds it")
    if problems:
        raise DataError("\n".join(problems))
    return readings


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        if source.suffix.lower() in SUFFIXES:
            yield source
        return
    if source.is_dir():
        os.listdir(source)  # raises OSError, where rglob takes a folder that it may not read for an empty one
    found = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    found = [path for path in found if not path.name.startswith(".") and not _is_metadata_file(path)]
    direct = [path for path in found if path.parent == source]
    yield from direct or found


def _is_metadata_file(path: Path) -> bool:
    if path.name != METADATA_FILE:
        return False
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return False
    return is_metadata(value)


def _parsed(path: Path) -> tuple[dict[int, Any], dict[str, Any]]:
    """The records by their position in the file, and the file's metadata."""
    content = read_regular(path)
    if path.suffix.lower() == ".jsonl":
        return _lines(content), {}
    text = content.decode("utf-8-sig")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # JSON lines in a .json file
            return _lines(content), {}
        raise
    if isinstance(value, list):
        return dict(enumerate(value)), {}
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        metadata = value.get("metadata")
        return dict(enumerate(value["data"])), metadata if isinstance(metadata, dict) else {}
    raise ValueError(f"neither a list of records nor an object with a list under 'data'; got {type(value).__name__}")


def _lines(content: bytes) -> dict[int, Any]:
    """The record of each line that is not blank; None for a line that is not JSON in UTF-8."""
    records: dict[int, Any] = {}
    for number, line in enumerate(content.split(b"\n")):
        if line.strip():
            try:
                records[number] = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                records[number] = None
    return records
