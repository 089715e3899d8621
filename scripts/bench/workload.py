"""Writes to disk what every contender runs (a contender is a framework or setting that the benchmark compares): a tiny
model whose responses never end early, and prompts with images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGE_SIZE = 112  # default pixels of a side; the sides of all images are multiples of PATCH_SIZE
PATCH_SIZE = 28  # pixels of a side that become one token
TEXT_TOKENS = 95  # tokens of a prompt without its images
SOURCES = ("visible", "infrared", "depth", "radar", "left")
NUM_SOURCES = 2  # default number per prompt
SEED = 0
MODEL_FOLDER = "model"


def prompt_tokens(num_sources: int, image_side: int = IMAGE_SIZE) -> int:
    """Tokens of every prompt with `num_sources` images. Each image has one extra token before it and one after it.

    Example: 2 images of 112 pixels -> 95 + 2 * (16 + 2) = 131.
    """
    return TEXT_TOKENS + num_sources * ((image_side // PATCH_SIZE) ** 2 + 2)


def rows_file(num_sources: int, image_side: int = IMAGE_SIZE) -> str:
    return f"rows_{num_sources}_{image_side}.parquet"


ROWS_FILE = rows_file(NUM_SOURCES)


Shape = tuple[int, int]
"""The images of a prompt: how many, and the pixels of their sides."""


def write_workload(folder: Path, num_prompts: int, shapes: Sequence[Shape]) -> dict[str, Any]:
    """Write the model, the images and, for each shape, a file of `num_prompts` rows. Returns the facts for the report.

    Every row has its own images: in one epoch, image caches help only within a step, as with a large data set.
    """
    num_parameters = _write_model(folder / MODEL_FOLDER)
    for shape in shapes:
        _write_rows(folder, num_prompts, *shape)
    prompts = [{"images": n, "image_side": side, "tokens": prompt_tokens(n, side)} for n, side in shapes]
    return {"parameters": num_parameters, "rows": num_prompts, "prompts": prompts}


def _write_model(folder: Path) -> int:
    """Write a random tiny Qwen2.5-VL whose responses all have the full length. Returns the number of parameters.

    One unit of the residual stream is always 1, and only the end token's row of the head reads it, with weight -30, so
    that the end token is never sampled. This does not change the cost of the model.
    """
    from safetensors.torch import load_file, save_file

    from mars.data.synthetic.tiny_model import build_tiny

    build_tiny(folder, seed=SEED)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if name.startswith("model.layers.") and name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[0] = 0
    weights["model.embed_tokens.weight"][:, 0] = 1
    weights["visual.merger.mlp.2.weight"][0] = 0
    weights["visual.merger.mlp.2.bias"][0] = 1
    end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    head = weights["lm_head.weight"]
    head[:, 0] = 0
    head[end] = 0
    head[end, 0] = -30
    save_file(weights, file, metadata={"format": "pt"})
    return sum(weight.numel() for weight in weights.values())


def _write_rows(folder: Path, num_prompts: int, num_sources: int, side: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    random = np.random.default_rng(SEED)
    sources, images = list(SOURCES[:num_sources]), Path(f"images_{num_sources}_{side}")
    (folder / images).mkdir()
    question = _question_writer(folder / MODEL_FOLDER, num_sources)
    rows = []
    for index in range(num_prompts):
        paths = [str(images / f"{index:05d}_{source}.png") for source in sources]
        for path in paths:
            pixels = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(folder / path)
        rows.append(
            {
                "data_source": "bench",
                "prompt": [{"role": "user", "content": "<image>" * num_sources + question(index)}],
                "images": paths,
                "reward_model": {"style": "rule", "ground_truth": "none"},
                "extra_info": {"sources": sources},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / rows_file(num_sources, side))


def _question_writer(model: Path, num_sources: int):
    """index -> a question, padded so that a prompt with images of IMAGE_SIZE has `prompt_tokens(num_sources)` tokens.

    The text is the same for images of any size.
    """
    from mars.data.prompts.chat import PromptEncoder, prompt_length
    from mars.types import Message

    encoder, wanted = PromptEncoder.from_pretrained(str(model)), prompt_tokens(num_sources)

    def length(text: str) -> int:
        ids = encoder.encode((Message("user", "<image>" * num_sources + text),), num_sources)
        return prompt_length(ids, [(IMAGE_SIZE // PATCH_SIZE) ** 2] * num_sources)

    def question(index: int) -> str:
        text = f"Scene {index}: what do the two images show? "
        # The tiny tokenizer never merges this character, so each is one token.
        text += "~" * (wanted - length(text))
        if length(text) != wanted:
            raise ValueError(f"a prompt has {length(text)} tokens, not {wanted}")
        return text

    return question


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the benchmark's model and data; print facts as JSON.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("num_prompts", type=int)
    parser.add_argument("shapes", nargs="+", help="images of a prompt x pixels of their sides: 2x112")
    arguments = parser.parse_args()
    images = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes]
    print(json.dumps(write_workload(arguments.folder, arguments.num_prompts, images)))
