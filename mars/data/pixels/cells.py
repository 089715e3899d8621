"""Read images that are stored as bytes in a parquet file, or in an arrow file written by `datasets`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

    _Columns = Mapping[str, pyarrow.ChunkedArray]

IMAGE_COLUMNS = ("images", "image")
CACHED_ROW_GROUPS = 2


def read_cell(path: str, row: int, slot: int) -> bytes:
    """The encoded image at position `slot` of a row's image list.

    A parquet file is read by row groups; the images of the two most recently read row groups stay in memory. An arrow
    file is memory-mapped.
    Raises OSError or ValueError (the bases of pyarrow's errors) if the file cannot be read, and LookupError if it has
    no such image.
    """
    columns, place = (_arrow_place if path.endswith(".arrow") else _parquet_place)(path, row)
    cells = {name: column[place].as_py() for name, column in columns.items()}
    name = image_column(cells)
    cell = None if name is None else cells[name]
    images = cell if isinstance(cell, list) else [cell]
    item = images[slot] if slot < len(images) else None
    data = item.get("bytes") if isinstance(item, dict) else item
    if not isinstance(data, bytes):
        raise LookupError(f"row {row} has no image bytes at {slot}")
    return data


def image_column(row: Mapping[str, Any]) -> str | None:
    """The first filled column of "images" and "image", else the first that is not None, else None."""
    given = [name for name in IMAGE_COLUMNS if row.get(name) is not None]
    return next((name for name in given if is_filled(row[name])), given[0] if given else None)


def is_filled(cell: Any, depth: int = 3) -> bool:
    """Whether a cell holds anything. depth: how many levels of nested lists and mappings are searched.

    >>> is_filled({"bytes": None, "path": None}), is_filled([""]), is_filled(["a.png"])
    (False, False, True)
    """
    if isinstance(cell, dict) and depth:
        return any(is_filled(value, depth - 1) for value in cell.values())
    if isinstance(cell, list) and depth:
        return any(isinstance(value, int | float) or is_filled(value, depth - 1) for value in cell)
    return bool(cell)


def open_arrow(path: str) -> pyarrow.Table:
    """Memory-map an arrow file: only cells that are used are read from disk. Raises OSError or ValueError."""
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.memory_map(path)) as reader:
        return reader.read_all()


def _arrow_place(path: str, row: int) -> tuple[_Columns, int]:
    """The file's image columns, and the row's position in them."""
    columns = _arrow_images(path)
    length = len(next(iter(columns.values())))
    if not 0 <= row < length:
        raise LookupError(f"no row {row} among {length}")
    return columns, row


@lru_cache(maxsize=64)
def _arrow_images(path: str) -> _Columns:
    table = open_arrow(path)
    return {name: table.column(name) for name in _image_columns(table.column_names)}


def _parquet_place(path: str, row: int) -> tuple[_Columns, int]:
    starts = _row_group_starts(path)
    if not 0 <= row < starts[-1]:
        raise LookupError(f"no row {row} among {starts[-1]}")
    group = bisect_right(starts, row) - 1
    return _row_group_images(path, group), row - starts[group]


def _image_columns(names: Sequence[str]) -> list[str]:
    columns = [name for name in IMAGE_COLUMNS if name in names]
    if not columns:
        raise LookupError(f"no column {' or '.join(IMAGE_COLUMNS)}")
    return columns


@lru_cache(maxsize=64)
def _row_group_starts(path: str) -> tuple[int, ...]:
    """The first row of each row group, followed by the total number of rows."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return tuple(starts)


@lru_cache(maxsize=CACHED_ROW_GROUPS)
def _row_group_images(path: str, group: int) -> _Columns:
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
    chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
    # Dictionaries are not unpacked, so that an image that the file repeats is in memory only once.
    packed = [chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY" and amplifies(chunk)]
    with parquet.ParquetFile(path, read_dictionary=packed) as file:
        columns = _image_columns(file.schema_arrow.names)
        table = file.read_row_group(group, columns=columns)
    return {name: table.column(name) for name in columns}


def amplifies(chunk: pyarrow.parquet.ColumnChunkMetaData) -> bool:
    """Whether a column chunk may unpack to far more bytes: it stores repeated values or common prefixes once."""
    return any("DICTIONARY" in name or name == "DELTA_BYTE_ARRAY" for name in chunk.encodings)
