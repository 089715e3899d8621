"""Read the index of a model that is stored in several files. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mars.errors import SetupError
from mars.output.files import read_regular

_MAX_BYTES = 10**8


def read_weight_map(index: Path, key: str) -> Mapping[str, str]:
    """Tensor name -> its file. index: model.safetensors.index.json. key: the setting that holds the model.

    Raises SetupError if the index cannot be read.
    """
    try:
        shard_of = json.loads(read_regular(index, _MAX_BYTES))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise SetupError(f"{key}: {index}: not the index of a model's shards: {what}; download it again") from error
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()) or not shard_of:
        raise SetupError(
            f"{key}: {index}: weight_map must give a file for each tensor; got {shard_of!r:.80}; download it again"
        )
    return shard_of
