"""Read the headers of a model's safetensors files: names and shapes of its tensors, without reading weights."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.actor.weight_index import read_weight_map
from mars.errors import SetupError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = "download it again"
# Type in the format -> bits of one value. Tensors of other types (float8, float4) are read without checking their size.
_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
_MAX_HEADER_BYTES = 10**8  # the largest header that the format allows


@dataclass(frozen=True)
class TensorHeader:
    """A tensor in a file: its type as the format names it (F32, BF16, ...), and its shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path, key: str = "model.path") -> dict[str, TensorHeader]:
    """Tensor name -> header, of model.safetensors or, if there is none, of the shards that the index file names.

    key: the setting that holds the folder, for messages.
    Raises SetupError for weights that are missing, cut off or not in the safetensors format.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return dict(_headers(single, key))
    if index.is_file():
        return _sharded(folder, index, key)
    pickled = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
    found = f"{pickled[0]}, a pickle, which is never loaded because it could run code" if pickled else "none"
    raise SetupError(
        f"{key}: {folder} must hold its weights as {SINGLE} or *.safetensors with {INDEX}; got {found}; "
        "give a complete Hugging Face folder, or convert the weights to safetensors"
    )


def model_headers(folder: Path, not_loaded: tuple[str, ...]) -> dict[str, TensorHeader]:
    """The headers of `read_headers` whose tensors become part of the model. not_loaded: starts of the names that its
    family does not load (mars/families/family.py)."""
    return {
        name: header
        for name, header in read_headers(folder).items()
        # Older versions of transformers stored these tables; now they are computed.
        if not name.startswith(not_loaded) and not name.endswith("rotary_emb.inv_freq")
    }


def _sharded(folder: Path, index: Path, key: str) -> dict[str, TensorHeader]:
    shard_of = read_weight_map(index, key)
    found: dict[str, TensorHeader] = {}
    for shard in sorted(set(shard_of.values())):
        path = folder / shard
        if Path(shard).name != shard or not os.path.isfile(path):
            raise SetupError(f"{key}: {index}: weight_map names {shard:.200}, which is not in {folder}; {_AGAIN}")
        found |= _headers(path, key)
    for name, shard in shard_of.items():
        if name not in found:
            raise SetupError(f"{key}: {folder / shard}: lacks {name}, which {INDEX} places there; {_AGAIN}")
    return found


def _headers(file: Path, key: str) -> Iterator[tuple[str, TensorHeader]]:
    """(name, header) of each tensor of a safetensors file.

    The file: 8 bytes with the length of the JSON header (little endian), this header, then the weights.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _MAX_HEADER_BYTES):
                raise ValueError(f"its header cannot have {length} bytes in a file of {size}")
            entries: dict[str, Any] = json.loads(stream.read(length))
        if not isinstance(entries, dict):
            raise ValueError(f"its header must be a JSON object, not a {type(entries).__name__}")
        end = 0
        for name, entry in entries.items():
            if name != "__metadata__":
                header, stop = _tensor(file.name, name, entry)
                end = max(end, stop)
                yield name, header
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise SetupError(f"{key}: {file}: not a safetensors file: {what}; {_AGAIN}") from error
    if size != 8 + length + end:
        raise SetupError(f"{key}: {file}: its header announces {8 + length + end} bytes; got {size}; {_AGAIN}")


def _tensor(file: str, name: str, entry: Any) -> tuple[TensorHeader, int]:
    """A tensor's header, and the offset in the weights at which its bytes end."""
    shape, (start, stop), dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not all(type(side) is int and side >= 0 for side in shape) or not 0 <= start <= stop:
        raise ValueError(f"{name} has the impossible shape {shape} or offsets {start} to {stop}")
    if dtype in _BITS and math.prod(shape) * _BITS[dtype] != 8 * (stop - start):
        raise ValueError(f"{name} of shape {shape} in {dtype} has {stop - start} bytes")
    return TensorHeader(file, dtype, tuple(shape)), stop
