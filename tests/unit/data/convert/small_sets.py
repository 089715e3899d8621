"""Small files in the public sets' forms, and `mars data convert` on them, for the tests of the converters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mars.cli.app import app

SIZE = (40, 32)


def picture(path: Path, mode="RGB", size=SIZE, shade=90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade, 20, 30)).save(path)


def depth(path: Path, millimetres=2500, size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], millimetres, dtype=np.uint16)).save(path)


def views(folder: Path, number=6, start=0) -> list[str]:
    """Names of pictures in folder/images."""
    names = [f"{start + i}.jpg" for i in range(number)]
    for name in names:
        picture(folder / "images" / name)
    return names


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value)
    path.write_text(lines, encoding="utf-8")
    return path


def talk(*turns):
    """A conversation of LLaVA's form: question, answer, question …"""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


def evaluation(paths, text, truth, **fields):
    """A record of the official evaluation files."""
    content = [{"type": "image", "image": path} for path in paths]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}], "ground_truth": truth, **fields}


def run_convert(out: Path, name: str, source: Path, *options) -> tuple[list[dict[str, Any]], Any]:
    """Rows of the files that the command writes, in order, and the metadata. The command in this process."""
    app(["data", "convert", name, str(source), str(out), *map(str, options)], standalone_mode=False)
    rows = [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    metadata = json.loads((out / "dataset.json").read_text()) if (out / "dataset.json").exists() else None
    return rows, metadata
