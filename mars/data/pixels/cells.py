"""Read images that are stored as bytes in a parquet file, or in an arrow file written by `datasets`."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow

IMAGE_COLUMNS = ("images", "image")
CACHED_ROW_GROUPS = 2


def read_cell(path: str, row: int, slot: int) -> bytes:
    """The encoded image at position `slot` of a row's image list.

    A parquet file is read by row groups; the images of the last two stay in memory. An arrow file is memory-mapped.
    Raises OSError or ValueError (the bases of pyarrow's errors) if the file cannot be read, and LookupError if it has
    no such image.
    """
    cell = (_arrow_cell if path.endswith(".arrow") else _parquet_cell)(path, row).as_py()
    images = cell if isinstance(cell, list) else [cell]
    item = images[slot] if slot < len(images) else None
    data = item.get("bytes") if isinstance(item, dict) else item
    if not isinstance(data, bytes):
        raise LookupError(f"row {row} has no image bytes at {slot}")
    return data


def image_column(names: list[str]) -> str | None:
    """The name of the column with images; None if there is none."""
    return next((name for name in IMAGE_COLUMNS if name in names), None)


def open_arrow(path: str) -> pyarrow.Table:
    """Memory-map an arrow file; only the cells that are used are read. Raises OSError or ValueError."""
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.memory_map(path)) as reader:
        return reader.read_all()


def _arrow_cell(path: str, row: int) -> pyarrow.Scalar:
    images = _arrow_images(path)
    if not 0 <= row < len(images):
        raise LookupError(f"no row {row} among {len(images)}")
    return images[row]


@lru_cache(maxsize=64)
def _arrow_images(path: str) -> pyarrow.ChunkedArray:
    table = open_arrow(path)
    return table.column(_images_of(table.column_names))


def _parquet_cell(path: str, row: int) -> pyarrow.Scalar:
    starts = _row_group_starts(path)
    if not 0 <= row < starts[-1]:
        raise LookupError(f"no row {row} among {starts[-1]}")
    group = bisect_right(starts, row) - 1
    return _row_group_images(path, group)[row - starts[group]]


def _images_of(names: list[str]) -> str:
    column = image_column(names)
    if column is None:
        raise LookupError(f"no column {' or '.join(IMAGE_COLUMNS)}")
    return column


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
def _row_group_images(path: str, group: int) -> pyarrow.ChunkedArray:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        column = _images_of(file.schema_arrow.names)
        return file.read_row_group(group, columns=[column]).column(column)
