"""Write a model's input embeddings for the reward `text` of Mixed-R1.

    python recipe/mixed_r1/build.py /models/Qwen2.5-VL-3B-Instruct runs/mixed_r1_embeddings

Writes tokenizer.json, and embeddings.npy: float16, each row divided by its length. The processes of a run that read
embeddings.npy share one copy in memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from transformers import AutoTokenizer

from mars.errors import DataError, MarsError

NAME = "embed_tokens.weight"


def main(model: str, out: str) -> None:
    """Raises DataError for a folder without safetensors that contain the embeddings of text tokens."""
    target = Path(out)
    matrix = input_embeddings(Path(model))
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "embeddings.npy", (matrix / np.maximum(lengths(matrix), 1e-12)).astype(np.float16))
    AutoTokenizer.from_pretrained(model).backend_tokenizer.save(str(target / "tokenizer.json"))
    sys.stdout.write(f"{target}: {matrix.shape[0]} embeddings of {matrix.shape[1]} numbers\n")


def lengths(matrix: np.ndarray) -> np.ndarray:
    """The length of each row: [rows, 1]."""
    return np.linalg.norm(matrix, axis=1, keepdims=True)


def input_embeddings(model: Path) -> np.ndarray:
    """The input embeddings of a model: float32 [vocabulary, size]."""
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 it is no mapping
                if name.endswith(NAME):
                    return tensors.get_tensor(name).float().numpy()
    raise DataError(f"{model}: no tensor {NAME}; want a folder of a model with safetensors")


def command(arguments: Sequence[str]) -> None:
    """Run `main` with command-line arguments."""
    parser = argparse.ArgumentParser(prog="build.py", description="Write a model's input embeddings.")
    parser.add_argument("model", help="folder of a model with safetensors")
    parser.add_argument("out", help="folder to write")
    given = parser.parse_args(arguments)
    try:
        main(given.model, given.out)
    except MarsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    command(sys.argv[1:])
