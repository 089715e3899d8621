"""What every contender is given: a tiny model that never ends early, and prompts with two images each, on disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

IMAGE_SIZE = 112  # pixels
PROMPT_TOKENS = 131  # with the images' tokens
IMAGE_TOKENS = 16  # of one image: (112 / 28) squared
SEED = 0
ROWS_FILE = "rows.parquet"
MODEL_FOLDER = "model"


def write_workload(folder: Path, num_prompts: int) -> dict[str, int]:
    """Model, images and rows in `folder`. Returns the facts a reader of the benchmark needs.

    Every step has prompts of its own: an image cache helps within a step only, as it would on a large data set.
    """
    num_parameters = _write_model(folder / MODEL_FOLDER)
    _write_rows(folder, num_prompts)
    return {"parameters": num_parameters, "prompt_tokens": PROMPT_TOKENS, "image_pixels": IMAGE_SIZE}


def _write_model(folder: Path) -> int:
    """A random tiny Qwen2.5-VL whose responses all have the full length. Returns the number of parameters.

    One unit of the residual stream is 1 at every token and no layer writes to it. The end token's logit is -30 times
    that unit after the last norm, and no other logit reads it. Nothing about the cost of the model changes.
    """
    from safetensors.torch import load_file, save_file

    from mars.actor.tiny import build_tiny

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


def _write_rows(folder: Path, num_prompts: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    random = np.random.default_rng(SEED)
    (folder / "images").mkdir()
    question = _question_writer(folder / MODEL_FOLDER)
    rows = []
    for index in range(num_prompts):
        paths = [f"images/{index:05d}_{source}.png" for source in ("visible", "infrared")]
        for path in paths:
            pixels = random.integers(0, 256, (IMAGE_SIZE // 8, IMAGE_SIZE // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST).save(folder / path)
        rows.append(
            {
                "data_source": "bench",
                "prompt": [{"role": "user", "content": "<image><image>" + question(index)}],
                "images": paths,
                "reward_model": {"style": "rule", "ground_truth": "none"},
                "extra_info": {"sources": ["visible", "infrared"]},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / ROWS_FILE)


def _question_writer(model: Path):
    """index -> a question about it, filled up so that every prompt has exactly PROMPT_TOKENS tokens."""
    from mars.data.chat import PromptEncoder, prompt_length
    from mars.types import Message

    encoder = PromptEncoder.from_pretrained(str(model))

    def length(text: str) -> int:
        ids = encoder.encode((Message("user", "<image><image>" + text),), 2)
        return prompt_length(ids, [IMAGE_TOKENS, IMAGE_TOKENS])

    def question(index: int) -> str:
        text = f"Scene {index}: what do the two images show? "
        # The tiny tokenizer knows no merge of this sign: each is one token.
        text += "~" * (PROMPT_TOKENS - length(text))
        if length(text) != PROMPT_TOKENS:
            raise ValueError(f"a prompt has {length(text)} tokens, not {PROMPT_TOKENS}")
        return text

    return question


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the benchmark's model and data; print facts as JSON.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("num_prompts", type=int)
    arguments = parser.parse_args()
    print(json.dumps(write_workload(arguments.folder, arguments.num_prompts)))
