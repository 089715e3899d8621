"""Small images in which every pixel says where it is, and `mars data build` on rows of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mars.cli.app import app

SIZE = (48, 32)  # width, height


def plane(size=SIZE, blue=0) -> np.ndarray:
    """uint8 [height, width, 3]: red is the pixel's x, green its y."""
    y, x = np.mgrid[: size[1], : size[0]]
    return np.stack([x, y, np.full_like(x, blue)], axis=-1).astype(np.uint8)


def make_rows(folder: Path, number=6, sources=("visible", "infrared"), size=SIZE, **columns: Any) -> Path:
    """A file of rows; the image of source s of row r has blue 10 r + s. columns: of every row."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in range(number):
        names = [f"{row}_{source}.png" for source in sources]
        for i, name in enumerate(names):
            Image.fromarray(plane(size, 10 * row + i)).save(folder / name)
        given = {
            "prompt": "<image>" * len(names) + "\nWhat is there?",
            "images": names,
            "answer": "nothing",
            "extra_info": {"id": f"r{row}", "sources": list(sources), **columns.get("extra_info", {})},
        }
        lines.append(json.dumps({**given, **{key: value for key, value in columns.items() if key != "extra_info"}}))
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "rows.jsonl"


def build(out: Path, task: str, source: Path, *options, seed: int = 1) -> list[dict[str, Any]]:
    """The rows that the command writes, with their images as arrays under "pixels". The command in this process."""
    app(["data", "build", task, str(source), str(out), "--seed", str(seed), *map(str, options)], standalone_mode=False)
    (file,) = out.glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        row["pixels"] = [np.asarray(Image.open(out / image["path"])) for image in row["images"]]
        row["truth"] = row["reward_model"]["ground_truth"]
        row["origin"] = json.loads(row["extra_info"]["origin"])
        row["text"] = row["prompt"][-1]["content"]
    return rows
