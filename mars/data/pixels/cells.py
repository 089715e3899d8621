"""Images stored as bytes in the cells of a parquet file."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

IMAGE_COLUMNS = ("images", "image")
CACHED_ROW_GROUPS = 2


def read_cell(path: str, row: int, slot: int) -> bytes:
    """The encoded image at position `slot` of a row's image list.

    Reads the images of that row's row group only, and keeps the last two row groups. Raises OSError or ValueError
    (pyarrow's errors derive from them) if the file is not parquet, and LookupError if it has no such image.
    """
    starts = _row_group_starts(path)
    if not 0 <= row < starts[-1]:
        raise LookupError(f"no row {row} among {starts[-1]}")
    group = bisect_right(starts, row) - 1
    cell = _row_group_images(path, group)[row - starts[group]].as_py()
    images = cell if isinstance(cell, list) else [cell]
    item = images[slot] if slot < len(images) else None
    data = item.get("bytes") if isinstance(item, dict) else item
    if not isinstance(data, bytes):
        raise LookupError(f"row {row} has no image bytes at {slot}")
    return data


def image_column(names: list[str]) -> str | None:
    """The column that holds a file's images, if any."""
    return next((name for name in IMAGE_COLUMNS if name in names), None)


@lru_cache(maxsize=64)
def _row_group_starts(path: str) -> tuple[int, ...]:
    """First row of each row group, then the number of rows."""
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
        column: Any = image_column(file.schema_arrow.names)
        if column is None:
            raise LookupError(f"no column {' or '.join(IMAGE_COLUMNS)}")
        return file.read_row_group(group, columns=[column]).column(column)
