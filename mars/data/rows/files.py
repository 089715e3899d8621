"""Read the rows of data files without interpreting them, and hash the files' contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mars.data.pixels.cells import open_arrow
from mars.data.rows import sizes as limits
from mars.data.rows.media import MEDIA_COLUMNS
from mars.data.rows.parquet import MAX_FILE_TEXT, ROWS_PER_READ, known_columns, parquet_chunks, rows_of
from mars.data.rows.problems import RowError
from mars.data.rows.saved import ROW_FILES, FileError, SavedSet, arrow_files, saved_set
from mars.data.rows.signatures import wrong_contents
from mars.data.rows.sizes import refusal
from mars.data.rows.texts import load_unicode
from mars.errors import DataError
from mars.output.files import special_kind

COLUMNS = (
    "data_source", "prompt", "problem", "images", "image", "reward_model", "answer", "extra_info", "response",
    "mono_responses",
    *MEDIA_COLUMNS, "tools",
)  # fmt: skip

CONVERSATION_COLUMNS = {"conversations", "messages", "instruction"}

MAX_JSON_BYTES = 2**28  # of a .json file, which takes about four times as much memory

_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
_PACKED = (".gz", ".zst", ".xz", ".bz2", ".zip", ".tar", ".tgz", ".7z")
_FROM_TABLE = (
    'write each line of the table as a JSON object into a .jsonl file; "From a table" in docs/data.md has a program '
    "for CSV, and spreadsheets can be saved as CSV"
)

ReadJson = Callable[[str, str | None], Iterator[tuple[str, Mapping[str, Any] | RowError]]]
"""(.json file of a published data set, image root) -> for each question: its place in the file, as error messages name
it, such as "3, question 2"; and its columns, or the RowError that refuses it. May raise DataError."""


@dataclass(frozen=True)
class StoredRow:
    """A row as stored. label: "file:number", or "file:question" if `question` is set.

    file: the file or saved set, as the user named it. number: the row's position in it, from 0.
    columns: None if the row cannot be parsed, or if `problem` is set.
    problem: why the row cannot be used, as far as the file's reader can tell. Example: it is too large.
    arrow: for a saved set, the arrow file that holds the row, and the row's position in that file.
    question: for a file of records with several questions, such as a .json file: the record's position in the file and
        the question's number, such as "3, question 2". It differs from `number`, the row's position among all questions
        of the file.
    """

    file: str
    file_index: int
    number: int
    columns: Mapping[str, Any] | None
    problem: RowError | None = None
    arrow: tuple[str, int] | None = None
    question: str | None = None

    @property
    def label(self) -> str:
        return f"{self.file}:{self.number if self.question is None else self.question}"

    @property
    def place(self) -> tuple[str, int]:
        """The file on disk that holds the row, and the row's position in it."""
        return self.arrow or (os.path.realpath(self.file), self.number)

    @property
    def set_name(self) -> str:
        """The default data_source: the file's name without its ending.

        For a saved set: the name of its folder, or the part of its hub name after "owner/".
        """
        saved = saved_set(self.file) if self.arrow else None
        return Path(self.file).stem if saved is None else Path(saved.path).name

    @property
    def folder(self) -> str:
        """Where image paths start if no image root is given: the folder of the file, or that of the saved set."""
        saved = saved_set(self.file) if self.arrow else None
        return saved.path if saved is not None and saved.is_folder else os.path.dirname(self.place[0])


def unusable_files(files: Sequence[str], image_root: str | None) -> list[str]:
    """What is wrong with the files, as far as it shows before rows are read. Downloads sets of the hub if needed."""
    found = [] if files else ["data: no files given; name at least one .parquet or .jsonl file"]
    seen: set[str] = set()
    for file in files:
        real = os.path.realpath(file)
        problem = _why_unusable(file)
        if problem is not None:
            found.append(f"{file}: {problem}")
        elif real in seen:
            found.append(f"{file}: named twice; name every file once")
        seen.add(real)
    if image_root is not None and not os.path.isdir(image_root):
        found.append(f"data.image_root: no such folder; got {image_root}")
    return found


def kind_of(file: str) -> str:
    """The kind of a file as error messages name it: "parquet", "jsonl", "json" or "a saved data set"."""
    return Path(file).suffix[1:] if saved_set(file) is None else "a saved data set"


def _why_missing(file: str, suffix: str) -> str:
    if os.path.islink(file):
        return f"is a link to {os.readlink(file)}, which is not there; mend the link, or name the file itself"
    if "://" in file:
        return "addresses are not read; download the file, and give its path"
    if any(sign in file for sign in "*?"):
        return "no such file; patterns are not expanded, name every file"
    return "no such file" if suffix else "no such file or folder; a data set of the hub is named owner/name@split"


def _why_unusable(file: str) -> str | None:
    saved = saved_set(file)
    if saved is not None:
        try:
            arrow_files(saved)
        except FileError as error:
            return str(error)
        return None
    suffix = Path(file).suffix
    if os.path.exists(file) and not os.path.isfile(file):
        return f"it is {special_kind(os.stat(file).st_mode)}, not a file; name a file of rows"
    if not os.path.isfile(file):
        return _why_missing(file, suffix)
    if suffix not in ROW_FILES:
        if suffix.lower() in _PACKED:
            return "unknown kind of file; unpack it"
        remedy = _FROM_TABLE if suffix.lower() in _TABLES else f"use {' or '.join(ROW_FILES)}"
        return f"unknown kind of file; {remedy}"
    size = os.path.getsize(file)
    if suffix == ".json" and size > MAX_JSON_BYTES:
        return (
            f"has {size} bytes; at most {MAX_JSON_BYTES} are read, because a .json file is in memory whole; write its "
            "rows as .jsonl or .parquet (mars data convert)"
        )
    if suffix != ".parquet" and size > MAX_FILE_TEXT:
        return f"has {size} bytes; at most {MAX_FILE_TEXT} are read; divide the rows among several files"
    try:
        return wrong_contents(file, suffix)
    except OSError as error:
        return f"cannot be read ({error.strerror}); make it readable"


def fingerprint_of(files: Sequence[str]) -> str:
    """Hash of the contents of the files, in order. It does not depend on their names or folders."""
    whole = hashlib.sha256()
    for file in files:
        saved = saved_set(file)
        for part in [file] if saved is None else arrow_files(saved):
            with open(part, "rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def chunks(file: str, index: int, image_root: str | None, read_json: ReadJson) -> Iterator[list[StoredRow]]:
    """The file's rows in lists of up to ROWS_PER_READ. Raises FileError.

    read_json: reads a .json file, or a .jsonl file of conversations. It looks for the images in `image_root`.
    """
    saved = saved_set(file)
    if saved is not None:
        yield from _arrow_chunks(file, index, saved)
        return
    if file.endswith(".json") or (file.endswith(".jsonl") and _has_conversations(file)):
        yield from _json_chunks(file, index, read_json(file, image_root))
        return
    number = 0
    for chunk in parquet_chunks(file, COLUMNS) if file.endswith(".parquet") else _jsonl_chunks(file):
        # A blank line of a JSONL file is skipped but counted, so that row numbers are line numbers from 0.
        yield [_stored(file, index, number + i, row) for i, row in enumerate(chunk) if row != {}]
        number += len(chunk)


def _stored(
    file: str,
    index: int,
    number: int,
    row: Mapping[str, Any] | RowError | None,
    arrow: tuple[str, int] | None = None,
    question: str | None = None,
) -> StoredRow:
    if isinstance(row, RowError):
        return StoredRow(file, index, number, None, row, arrow, question)
    return StoredRow(file, index, number, row, None, arrow, question)


def _json_chunks(
    file: str, index: int, questions: Iterator[tuple[str, Mapping[str, Any] | RowError]]
) -> Iterator[list[StoredRow]]:
    chunk = []
    try:
        for number, (question, row) in enumerate(questions):
            chunk.append(_stored(file, index, number, row, question=question))
            if len(chunk) == ROWS_PER_READ:
                yield chunk
                chunk = []
    except DataError as error:
        raise FileError(str(error)) from error
    yield chunk


def _arrow_chunks(file: str, index: int, saved: SavedSet) -> Iterator[list[StoredRow]]:
    from pyarrow import ArrowException

    number = 0
    try:
        for part in arrow_files(saved):
            table, row = open_arrow(part), 0
            known = table.select(known_columns(table.schema, COLUMNS))
            for batch in known.to_batches(max_chunksize=ROWS_PER_READ):
                rows = rows_of(batch)
                yield [_stored(file, index, number + i, found, (part, row + i)) for i, found in enumerate(rows)]
                number, row = number + len(rows), row + len(rows)
    except (OSError, ValueError, ArrowException) as error:
        raise FileError(str(error)) from error


def _jsonl_chunks(file: str) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    try:
        with open(file, "rb") as lines:
            for row in _parsed_lines(lines):
                chunk.append(row)
                if len(chunk) == ROWS_PER_READ:
                    yield chunk
                    chunk = []
    except OSError as error:
        raise FileError(str(error)) from error
    yield chunk


def _has_conversations(file: str) -> bool:
    """Whether the first row with a question has it in one of CONVERSATION_COLUMNS, and no "prompt" and no "problem".

    Bad lines before this row do not count: they must not decide how the good rows are read. Reads no further.
    """
    questions = {"prompt", "problem"}
    try:
        with open(file, "rb") as lines:
            for row in _parsed_lines(lines):
                if isinstance(row, dict) and any(row.get(name) for name in questions | CONVERSATION_COLUMNS):
                    return not (questions & row.keys())
    except OSError as error:
        raise FileError(str(error)) from error
    return False


def _parsed_lines(lines: BinaryIO) -> Iterator[dict[str, Any] | RowError | None]:
    """Each line of a JSONL file, as `_parse_line` returns it, or the RowError that refuses a line that is too long."""
    # Reads one byte more than the limit, to recognise a line that is too long.
    while line := lines.readline(limits.MAX_TEXT_BYTES + 1):
        yield _parse_line(line) if len(line) <= limits.MAX_TEXT_BYTES else _too_long(line, lines)


def _too_long(line: bytes, lines: BinaryIO) -> RowError:
    """Skip the rest of a line that is too long, and say how long it is."""
    size = len(line)
    while line and not line.endswith(b"\n"):
        line = lines.readline(limits.MAX_TEXT_BYTES)
        size += len(line)
    found = refusal(size, 0)
    assert found is not None  # only lines that are too long come here
    return found


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """The line's JSON object; {} for a blank line, None for anything else and for an object without keys."""
    if not line.strip():
        return {}
    try:
        row = load_unicode(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and row else None
