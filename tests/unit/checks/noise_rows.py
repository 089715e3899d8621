"""Files of rows about twelve pictures of noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path) -> Path:
    """0.png to 11.png of 64 x 48 pixels -> the folder."""
    noise = np.random.default_rng(5)
    for i in range(12):
        pixels = noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def row(*images, text="Find the person.", truth="[[1, 2, 20, 30]]", **extra):
    return {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "<image>" * len(images) + f"\n{text}"}],
        "images": [f"{image}.png" if isinstance(image, int) else image for image in images],
        "reward_model": {"ground_truth": truth},
        "extra_info": extra,
    }


def write(folder, rows, name="train.jsonl"):
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(folder / name)
