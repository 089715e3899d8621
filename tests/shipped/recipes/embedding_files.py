"""A folder as recipe/mixed_r1/build.py writes it, with three words of two numbers each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_embeddings(folder: Path) -> str:
    """red = (1, 0), dark = (0.6, 0.8), car = (0, 1); other words are (0, 0)."""
    model = {"type": "WordLevel", "vocab": {"red": 0, "dark": 1, "car": 2, "other": 3}, "unk_token": "other"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    unused = dict.fromkeys(["truncation", "padding", "normalizer", "post_processor", "decoder"])
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **unused}))
    np.save(folder / "embeddings.npy", np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 0]], dtype=np.float16))
    return str(folder)
