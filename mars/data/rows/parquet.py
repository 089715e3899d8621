"""Read the rows of parquet files and arrow batches, with limits on their unpacked size.

A row that is too large, or has a value that Python cannot hold, is refused alone; the other rows are read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mars.data.pixels.cells import IMAGE_COLUMNS, amplifies
from mars.data.rows import sizes as limits
from mars.data.rows.media import is_other_media
from mars.data.rows.problems import RowError
from mars.data.rows.saved import FileError
from mars.data.rows.sizes import refusal, row_bytes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from pyarrow.parquet import ColumnChunkMetaData, ParquetFile

ROWS_PER_READ = 256
MAX_GROUP_BYTES = 2**30  # most bytes of a row group, which is in memory while its images are read
MAX_FILE_TEXT = 2**31  # most bytes of all rows without images, which stay in memory
MAX_COLUMNS = 4096  # most columns of a file, counting each field of a struct; metadata: 6 kB a column
MAX_FOOTER_BYTES = 2**24  # most bytes of the metadata, which unpack to 30 times as much
MAX_REPETITION = 256  # most bytes of all images beyond MAX_GROUP_BYTES, as a multiple of the file's size
_BYTES_PER_READ = 2**28
_BYTES_OF_ITEM = 64  # of a list element in memory; in the file it may take less than a bit
_MANY_VALUES = 2**22
_ROWS_PER_MEASURE = 2**16

Row = dict[str, Any] | RowError


def parquet_chunks(file: str, columns: Sequence[str]) -> Iterator[list[Row]]:
    """The rows, in lists of up to ROWS_PER_READ.

    columns: the columns to read. Columns that may hold media are read too (`known_columns`). The limits on unpacked
    size count only the columns that are read. Raises FileError.
    """
    from pyarrow import ArrowException, parquet

    try:
        length, magic = _footer(file)
        if magic == b"PAR1" and length > MAX_FOOTER_BYTES:
            raise FileError(
                f"has {length} bytes of metadata; at most {MAX_FOOTER_BYTES} are read; write larger row groups "
                "(row_group_size), or fewer columns"
            )
        with parquet.ParquetFile(file) as reader:
            _refuse_many_columns(reader)
            known = known_columns(reader.schema_arrow, columns)
            _refuse_encryption(reader, length, magic)
            _check_groups(reader, known)
            with parquet.ParquetFile(file, read_dictionary=_texts(reader, known)) as packed:
                yield from _rows(reader, packed, known, os.path.getsize(file))
    except (OSError, ValueError, ArrowException) as error:
        raise FileError(" ".join(str(error).split())) from error


def known_columns(schema: pyarrow.Schema, wanted: Sequence[str]) -> list[str]:
    """The columns of a file to read: the wanted ones, and others that may hold media. A row is refused if it has a
    video or sound in the others, or has images only there.

    Raises FileError if the file has no wanted column, or several with the same name.
    """
    known = [name for name in schema.names if name in wanted]
    if not known:
        raise FileError(f"none of the columns {', '.join(wanted)}")
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise FileError(f"has several columns with the name {', '.join(twice)}; keep one of each")
    return known + _other_media(schema)


def _other_media(schema: pyarrow.Schema) -> list[str]:
    """The columns for which `is_other_media` holds. If the file has a column of images, only those of them with texts.

    Such columns are small, and a row whose column of images is empty may name its images in one of them.
    """
    has_images = any(name in schema.names for name in IMAGE_COLUMNS)
    named = [name for name in schema.names if is_other_media(name) and schema.names.count(name) == 1]
    return [name for name in named if not has_images or _is_text(schema.field(name).type)]


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    if types.is_struct(kind):
        return all(_is_text(field.type) for field in kind)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)


def _footer(file: str) -> tuple[int, bytes]:
    """The length of a file's metadata, and the four letters at its end. (0, b"") for a file that is too short."""
    with open(file, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - 8, 0))
        end = stream.read(8)
    return struct.unpack("<I4s", end) if len(end) == 8 else (0, b"")


def _refuse_many_columns(reader: ParquetFile) -> None:
    number = reader.metadata.num_columns
    if number > MAX_COLUMNS:
        raise FileError(
            f"has {number} columns, the fields of structs counted singly; at most {MAX_COLUMNS} are read; "
            "remove columns that no row needs, or put fields of extra_info into its more_fields as JSON text"
        )


def _refuse_encryption(reader: ParquetFile, length: int, magic: bytes) -> None:
    """Raises FileError for a file whose columns are encrypted behind a readable footer.

    pyarrow ends the process when it is asked for the sizes of such a column. In such a file a signature follows the
    metadata, so its footer is longer than the metadata.
    """
    if magic == b"PAR1" and length != reader.metadata.serialized_size:
        raise FileError("has a signed footer, so columns may be encrypted; give a file without encryption")


def rows_of(batch: pyarrow.RecordBatch | pyarrow.Table) -> list[Row]:
    """The columns of each row, or why the row cannot be used: its size, or a value that Python cannot hold."""
    refusals = [refusal(*size) for size in zip(*_measured(batch), strict=True)]
    if not any(refusals):
        with suppress(Exception):  # if a value cannot be read, the rows are read one by one, to name the row
            return batch.to_pylist()
    return [refused or _row(batch.slice(i, 1)) for i, refused in enumerate(refusals)]


def _row(batch: pyarrow.RecordBatch | pyarrow.Table) -> Row:
    values = {}
    for name in batch.schema.names:
        column = batch.column(name)
        try:
            values[name] = column[0].as_py()
        except Exception as error:  # noqa: BLE001 - OverflowError, UnicodeDecodeError, an unknown time zone ...
            return RowError("value", f"the column {name} holds a value that cannot be read ({column.type}): {error}")
    return values


def _check_groups(reader: ParquetFile, columns: Sequence[str]) -> None:
    """Raises FileError for a row group that unpacks to more than MAX_GROUP_BYTES according to the file's metadata."""
    first = 0
    for number in range(reader.num_row_groups):
        num_rows = reader.metadata.row_group(number).num_rows
        last = first + num_rows - 1
        chunks = _chunks(reader, number, columns)
        unpacked = sum(c.total_uncompressed_size + _BYTES_OF_ITEM * max(c.num_values - num_rows, 0) for c in chunks)
        if unpacked > MAX_GROUP_BYTES:
            raise FileError(
                f"rows {first} to {last} are a row group that unpacks to {unpacked} bytes; at most {MAX_GROUP_BYTES} "
                "are read; write smaller row groups (row_group_size), or shorten the rows"
            )
        first = last + 1


def _chunks(reader: ParquetFile, group: int, columns: Sequence[str]) -> list[ColumnChunkMetaData]:
    """The metadata of these columns in a row group."""
    metadata = reader.metadata.row_group(group)
    chunks = (metadata.column(i) for i in range(metadata.num_columns))
    return [chunk for chunk in chunks if _belongs(chunk.path_in_schema, columns)]


def _belongs(path: str, columns: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _texts(reader: ParquetFile, columns: Sequence[str]) -> list[str]:
    parts = (reader.schema.column(i) for i in range(len(reader.schema)))
    return [part.path for part in parts if part.physical_type == "BYTE_ARRAY" and _belongs(part.path, columns)]


def _rows(reader: ParquetFile, packed: ParquetFile, columns: Sequence[str], file_bytes: int) -> Iterator[list[Row]]:
    """The rows. packed: a reader of the same file with `read_dictionary`, which holds a repeated value only once."""
    allowed = {"texts": MAX_FILE_TEXT, "images": MAX_GROUP_BYTES + MAX_REPETITION * file_bytes}
    unpacked = dict.fromkeys(allowed, 0)
    for group in range(reader.num_row_groups):
        sums, most_text, most_image, most_row = _sizes(reader, packed, group, columns)
        for what, most in allowed.items():
            unpacked[what] += sums[what]
            if unpacked[what] > most:
                raise FileError(
                    f"the {what} of its rows unpack to {unpacked[what]} bytes up to row group {group}; at most {most} "
                    "are read; shorten them, or divide the rows among several files"
                )
        is_large = most_text > limits.MAX_TEXT_BYTES or most_image > limits.MAX_IMAGE_BYTES
        number = max(1, min(ROWS_PER_READ, _BYTES_PER_READ // max(most_row, 1)))
        if is_large:
            table = packed.read_row_group(group, columns=list(columns))
            for start in range(0, table.num_rows, number):
                yield rows_of(table.slice(start, number))
        else:
            for batch in reader.iter_batches(batch_size=number, row_groups=[group], columns=list(columns)):
                yield rows_of(batch)


def _sizes(
    reader: ParquetFile, packed: ParquetFile, group: int, columns: Sequence[str]
) -> tuple[dict[str, int], int, int, int]:
    """(sums, most text, most images, most in total) of a row group, in bytes.

    sums: of all texts, and of all images. A row's texts, or its images, are left out if they exceed the limit of a row.
    The other three numbers are the largest texts, images, and texts plus images of one row. Rows over a limit count
    here.

    Columns too small to bring a row over its size limit are not read; each row gets an equal share of their bytes. The
    other columns are read in parts of _ROWS_PER_MEASURE rows, because measuring millions of rows at once would take as
    much memory as the rows themselves.
    """
    chunks = _chunks(reader, group, columns)
    to_measure = [chunk.path_in_schema for chunk in chunks if _must_measure(chunk)]
    num_rows = reader.metadata.row_group(group).num_rows
    even = [0, 0]
    for chunk in chunks:
        if chunk.path_in_schema not in to_measure:
            even[_belongs(chunk.path_in_schema, IMAGE_COLUMNS)] += chunk.total_uncompressed_size // max(num_rows, 1)
    sums, most = {"texts": 0, "images": 0}, [0, 0, 0]
    for texts, images in _parts(packed, group, to_measure, num_rows):
        texts, images = texts + even[0], images + even[1]
        sums["texts"] += int(texts[texts <= limits.MAX_TEXT_BYTES].sum())
        sums["images"] += int(images[images <= limits.MAX_IMAGE_BYTES].sum())
        most = [
            max(old, int(new.max(initial=0))) for old, new in zip(most, (texts, images, texts + images), strict=True)
        ]
    return sums, most[0], most[1], most[2]


def _parts(
    packed: ParquetFile, group: int, to_measure: Sequence[str], num_rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The measured sizes of a row group's rows, _ROWS_PER_MEASURE at a time; zeros if no column must be measured."""
    if to_measure:
        for batch in packed.iter_batches(batch_size=_ROWS_PER_MEASURE, row_groups=[group], columns=list(to_measure)):
            yield _measured(batch)
    else:
        for start in range(0, num_rows, _ROWS_PER_MEASURE):
            yield _zeros(min(_ROWS_PER_MEASURE, num_rows - start))


def _must_measure(chunk: ColumnChunkMetaData) -> bool:
    is_image, stored = _belongs(chunk.path_in_schema, IMAGE_COLUMNS), chunk.total_uncompressed_size
    if chunk.num_values > _MANY_VALUES or (amplifies(chunk) and not is_image):
        return True
    most = stored * chunk.num_values if amplifies(chunk) else stored
    return most > (limits.MAX_IMAGE_BYTES if is_image else limits.MAX_TEXT_BYTES)


def _measured(batch: pyarrow.RecordBatch | pyarrow.Table) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays, int64 [rows]: the bytes of each row's texts, and those of its images."""
    import numpy as np

    sizes = _zeros(batch.num_rows)
    for name in batch.schema.names:
        column = batch.column(name)
        parts = [row_bytes(part) for part in getattr(column, "chunks", [column])]
        if parts:
            sizes[name in IMAGE_COLUMNS][:] += np.concatenate(parts)
    return sizes


def _zeros(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    return np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64)
