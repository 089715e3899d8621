"""A folder as recipe/mixed_r1/build.py writes it, with three words of two numbers each."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_embeddings(folder: Path) -> str:
    """red = (1, 0), dark = (0.6, 0.8), car = (0, 1); other words are (0, 0)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"red": 0, "dark": 1, "car": 2, "other": 3}, unk_token="other"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    np.save(folder / "embeddings.npy", np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 0]], dtype=np.float16))
    return str(folder)
