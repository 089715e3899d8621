"""The workload of scripts/bench.py gpu: a random Qwen2.5-VL of the public 3B model's size, and random pictures."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.workload import MODEL_FOLDER, SEED, SOURCES

MODELS = ("3b", "tiny")
FACTS_FILE = "facts.json"
BLOCK = 32  # side in pixels of a picture's random-coloured squares; so its file is no larger than a photograph's
# Ids of the public tokenizer: its words, then the special tokens in the order of mars/data/synthetic/tiny_model.py.
FIRST_SPECIAL_ID = 151_643
PIXEL_LIMITS = {"shortest_edge": 3_136, "longest_edge": 12_845_056}
QUESTION = "What do the images show? Look at all of them."


@dataclass(frozen=True)
class Case:
    """Prompts with `num_images` images.

    max_pixels: data.max_image_pixels. In `CASES`, it is as in recipe/mars for this many images.
    """

    name: str
    num_images: int
    width: int
    height: int
    max_pixels: int

    @property
    def rows_file(self) -> str:
        return f"{self.name}.parquet"


CASES = {
    case.name: case
    for case in (
        Case("two_1280x1024", 2, 1280, 1024, 1_003_520),
        Case("six_1600x900", 6, 1600, 900, 490_000),
        Case("two_640x480", 2, 640, 480, 1_003_520),
    )
}
SMOKE = Case("smoke", 2, 112, 84, 12_544)


def config_3b(tokenizer: Any) -> Any:
    """The configuration of the public Qwen2.5-VL-3B-Instruct, with the token ids of `tokenizer`."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        tie_word_embeddings=True,
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
            for name, token in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        },
    )


def full_tokenizer() -> Any:
    """The tiny tokenizer with as many words as the public Qwen2.5-VL's, so that special tokens have the same ids."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from mars.data.synthetic.tiny_model import SPECIAL_TOKENS, build_tokenizer

    backend = json.loads(build_tokenizer("tiny", seed=0).backend_tokenizer.to_str())
    words = backend["model"]["vocab"]
    number = 0
    while len(words) < FIRST_SPECIAL_ID:
        words.setdefault(_word(number), len(words))
        number += 1
    for token in backend["added_tokens"]:
        token["id"] = FIRST_SPECIAL_ID + SPECIAL_TOKENS.index(token["content"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
        model_max_length=128_000,
    )


def _word(number: int) -> str:
    """Six capital letters. Example: 27 -> "AAAABB"."""
    return "".join(chr(ord("A") + number // 26**place % 26) for place in reversed(range(6)))


def write_model(folder: Path, size: str, device: str) -> dict[str, Any]:
    """Write a complete Hugging Face folder with random weights in bfloat16 (tiny: float32), made on `device`.

    Every response has the full length: one unit of the residual stream is always 1, and the end token's row of the head
    reads it with weight -30, so that the end token is never sampled. This does not change the cost of the model.
    Returns the facts for the report.
    """
    import torch
    from transformers import (
        AutoModelForImageTextToText,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    from mars.data.synthetic.tiny_families import CHAT_TEMPLATE, build_config
    from mars.data.synthetic.tiny_model import build_tokenizer

    tokenizer = full_tokenizer() if size == "3b" else build_tokenizer("tiny", seed=0)
    config = config_3b(tokenizer) if size == "3b" else build_config("qwen2_5_vl", tokenizer, tie_word_embeddings=True)
    torch.manual_seed(SEED)
    with torch.device(device):
        dtype = torch.bfloat16 if size == "3b" else torch.float32
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    _never_end(model, tokenizer.eos_token_id)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder / MODEL_FOLDER)
    images = Qwen2VLImageProcessor(size=PIXEL_LIMITS)
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)
    processor.save_pretrained(folder / MODEL_FOLDER)
    return {"model": size, "parameters": sum(parameter.numel() for parameter in model.parameters())}


def _never_end(model: Any, end: int) -> None:
    import torch

    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        merger = model.model.visual.merger.mlp[2]
        merger.weight[0] = 0
        merger.bias[0] = 1
        embeddings = model.get_input_embeddings().weight  # also those of the head, because they are tied
        embeddings[:, 0] = 1
        embeddings[end] = 0
        embeddings[end, 0] = -30


def write_rows(folder: Path, case: Case, num_prompts: int) -> None:
    """`num_prompts` rows, each with its own pictures as JPEG. All ask the same, so all prompts are equally long."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    random, images, sources = np.random.default_rng(SEED), Path(case.name), list(_sources(case))
    (folder / images).mkdir(exist_ok=True)
    rows = []
    for index in range(num_prompts):
        paths = [str(images / f"{index:05d}_{source}.jpg") for source in sources]
        for path in paths:
            squares = random.integers(0, 256, (-(-case.height // BLOCK), -(-case.width // BLOCK), 3), dtype=np.uint8)
            picture = squares.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[: case.height, : case.width]
            Image.fromarray(picture).save(folder / path, quality=90)
        rows.append(
            {
                "data_source": "bench",
                "prompt": [{"role": "user", "content": "<image>" * case.num_images + QUESTION}],
                "images": paths,
                "reward_model": {"style": "rule", "ground_truth": "none"},
                "extra_info": {"sources": sources},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / case.rows_file)


def _sources(case: Case) -> tuple[str, ...]:
    return (*SOURCES, "right")[: case.num_images]


def prepare(folder: Path, size: str, device: str, num_prompts: int, cases: list[Case]) -> dict[str, Any]:
    """Write the model, unless an earlier call has written it, and the rows of each case."""
    facts = folder / FACTS_FILE
    if not facts.exists():
        facts.write_text(json.dumps(write_model(folder, size, device)))
    found = json.loads(facts.read_text())
    if found["model"] != size:
        raise ValueError(f"{folder} has a model of size {found['model']}, not {size}; give another --folder")
    for case in cases:
        write_rows(folder, case, num_prompts)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the benchmark's model and data; print facts as JSON.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", choices=MODELS)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("num_prompts", type=int)
    parser.add_argument("cases", nargs="+", choices=(*CASES, SMOKE.name))
    arguments = parser.parse_args()
    chosen = [{**CASES, SMOKE.name: SMOKE}[name] for name in arguments.cases]
    facts = prepare(arguments.folder, arguments.size, arguments.device, arguments.num_prompts, chosen)
    print(json.dumps(facts))
