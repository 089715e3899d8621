"""Compute how many bytes rows of arrow arrays will take as Python objects, before the rows are converted.

Arrow's dictionaries store a repeated value once, so a small file may unpack to more than fits into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mars.data.rows.problems import RowError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

MAX_TEXT_BYTES = 2**26
MAX_IMAGE_BYTES = 2**28
_PER_VALUE = 16  # about what a number, a null or an element of a list costs


def row_bytes(array: pyarrow.Array) -> np.ndarray:
    """int64 [rows]: bytes of each row's texts and other values together."""
    import numpy as np
    import pyarrow.compute as pc
    from pyarrow import types

    kind = array.type
    if types.is_dictionary(kind):
        values = row_bytes(array.dictionary)
        return np.where(_nulls(array), 0, values[_integers(array.indices)] if len(values) else 0) + _PER_VALUE
    if types.is_struct(kind):
        return np.sum([np.full(len(array), _PER_VALUE), *map(row_bytes, array.flatten())], axis=0)
    if types.is_fixed_size_list(kind):
        ends = np.cumsum(np.where(_nulls(array), 0, kind.list_size))
        return _sums(row_bytes(array.flatten()), np.concatenate([[0], ends])) + _PER_VALUE
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        offsets = _integers(array.offsets)
        items = [array.keys, array.items] if types.is_map(kind) else [array.values]
        inner = np.sum([row_bytes(item[offsets[0] : offsets[-1]]) for item in items], axis=0)
        return _sums(inner, offsets - offsets[0]) + _PER_VALUE
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        return _integers(pc.call_function("binary_length", [array])) + _PER_VALUE
    return np.full(len(array), _PER_VALUE, np.int64)


def _integers(array: pyarrow.Array) -> np.ndarray:
    """int64 [rows]: an array of integers, 0 for null. `Array.to_numpy` would import pandas: half a second."""
    import numpy as np

    kind, buffer = np.dtype(str(array.type)), array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros(len(array), np.int64)
    values = np.frombuffer(buffer, kind, count=len(array), offset=array.offset * kind.itemsize).astype(np.int64)
    return np.where(_nulls(array), 0, values) if array.null_count else values


def _nulls(array: pyarrow.Array) -> np.ndarray:
    """bool [rows]"""
    return _integers(array.is_null().cast("uint8")).astype(bool)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of values[offsets[i] : offsets[i + 1]] for each i."""
    import numpy as np

    before = np.concatenate([[0], np.cumsum(values)])
    return before[offsets[1:]] - before[offsets[:-1]]


def refusal(text_bytes: int, image_bytes: int) -> RowError | None:
    """Why a row of this size is not read."""
    for what, number, limit in (("texts", text_bytes, MAX_TEXT_BYTES), ("images", image_bytes, MAX_IMAGE_BYTES)):
        if number > limit:
            detail = f"the row's {what} unpack to {number} bytes; at most {limit} are read; remove or shorten the row"
            return RowError("row_size", detail)
    return None
