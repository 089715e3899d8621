"""What every converter writes: parquet files of rows, and the card dataset.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One parquet file with the columns of docs/data.md, complete or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.string()
    schema = pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": text})),
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct(
                {
                    "id": text,
                    "index": pa.int64(),
                    "split": text,
                    "sources": pa.list_(text),
                    "image_sizes": pa.list_(pa.list_(pa.int64())),
                    "box_space": text,
                    "choices": pa.list_(text),
                }
            ),
        }
    )
    temporary = path.with_name(f".{path.name}.tmp")
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)
    os.replace(temporary, path)


def write_card(card: Mapping[str, Any], path: Path) -> None:
    """The card as JSON, complete or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
