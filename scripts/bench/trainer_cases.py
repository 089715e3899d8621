"""The cases of `bench.py trainer`: models, prompts with two images, and the ways to lay out a prompt and its responses
in a forward (padded, vision_once, shared_prefix)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mars.actor.batch import ForwardBatch, forward_batch
from mars.actor.model import PolicyModel, ScoringSettings
from mars.actor.prefix_attention import register
from mars.actor.shared_prefix import pack_groups
from mars.data.synthetic.tiny_families import build_config
from mars.data.synthetic.tiny_model import build_tokenizer
from mars.train_types import Packing
from mars.types import ImageRef
from scripts.bench.trainer_floor import FORWARD_AND_BACKWARD, Work, group_pairs, language_work, row_pairs, vision_work

ModelName = Literal["tiny", "mid"]
MODELS: tuple[ModelName, ...] = ("tiny", "mid")

Layout = Literal["padded", "vision_once", "shared_prefix"]
LAYOUTS: tuple[Layout, ...] = ("padded", "vision_once", "shared_prefix")
"""padded: every row with its own prompt and images. vision_once: rows that share their images. shared_prefix: packs."""

NUM_IMAGES = 2
_IMAGE_SIDES = {131: 8, 600: 32, 1500: 52}  # in patches; long prompts are mostly images, as in real data
_CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Case:
    """prompt: number of its tokens. response: tokens of each response. group: number of responses."""

    prompt: int
    response: int
    group: int

    @property
    def name(self) -> str:
        return f"{self.prompt}/{self.response}/{self.group}"

    @property
    def side(self) -> int:
        return _IMAGE_SIDES[self.prompt]


@dataclass(frozen=True)
class Prompt:
    """A prompt as tensors; implements `mars.actor.batch.ProcessedPrompt`."""

    input_ids: Tensor
    pixel_values: tuple[Tensor, ...]
    image_grid_thw: tuple[tuple[int, int, int], ...]
    image_keys: tuple[ImageRef, ...]


def model_config(name: ModelName, num_layers: int = 9) -> Any:
    """tiny: the quick start's model with 0.6 million parameters. mid: a model with 32 million and the same vocabulary.

    num_layers: of mid's language model.
    """
    config = build_config("qwen2_5_vl", build_tokenizer("tiny", seed=0), tie_word_embeddings=False)
    if name == "mid":
        text = {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 8,
        }
        rope = {**config.text_config.rope_parameters, "mrope_section": [8, 12, 12]}
        config.text_config.update({**text, "num_key_value_heads": 2, "rope_parameters": rope, "layer_types": None})
        config.text_config.layer_types = ["full_attention"] * text["num_hidden_layers"]
        vision = {"depth": 4, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "out_hidden_size": 512}
        config.vision_config.update({**vision, "fullatt_block_indexes": [3]})
    return config


def build_policy(name: ModelName, packing: Packing, num_layers: int = 9) -> PolicyModel:
    """A policy in float32, with the same random weights for either packing."""
    from transformers import AutoModelForImageTextToText

    config = model_config(name, num_layers)
    attention = {"text_config": register(), "vision_config": "sdpa"} if packing == "shared_prefix" else "sdpa"
    torch.manual_seed(0)
    backbone = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation=attention)
    media = (config.image_token_id, config.video_token_id)
    return PolicyModel(backbone, ScoringSettings(1.0, media, _CHUNK_TOKENS)).train()


def packing_of(layout: Layout) -> Packing:
    return "shared_prefix" if layout == "shared_prefix" else "padded"


def make_group(case: Case, config: Any) -> tuple[Prompt, list[tuple[int, ...]]]:
    """A prompt of two random square images and random words, and its responses. Equal cases give equal groups."""
    noise, pixels = random.Random(1), torch.Generator().manual_seed(1)
    words = range(config.text_config.vocab_size - 8 * NUM_IMAGES - 64)
    image_tokens = case.side**2 // config.vision_config.spatial_merge_size**2
    ids = []
    for _ in range(NUM_IMAGES):
        ids += [config.vision_start_token_id, *[config.image_token_id] * image_tokens, config.vision_end_token_id]
    ids += noise.choices(words, k=case.prompt - len(ids))
    vision = config.vision_config
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    prompt = Prompt(
        input_ids=torch.tensor(ids),
        pixel_values=tuple(torch.randn(case.side**2, patch, generator=pixels) for _ in range(NUM_IMAGES)),
        image_grid_thw=((1, case.side, case.side),) * NUM_IMAGES,
        image_keys=tuple(ImageRef(f"{i}.png", (1, 1)) for i in range(NUM_IMAGES)),
    )
    return prompt, [tuple(noise.choices(words, k=case.response)) for _ in range(case.group)]


def forwards(case: Case, layout: Layout, policy: PolicyModel, tokens_per_forward: int) -> list[ForwardBatch]:
    """All responses of the group, in forwards of at most `tokens_per_forward` tokens. A pack is never split here."""
    prompt, responses = make_group(case, policy.backbone.config)
    if layout == "shared_prefix":
        return [pack_groups([(prompt, responses)], policy.positions)]
    rows = [(prompt, response) for response in responses]
    if layout == "padded":
        rows = [(_with_own_images(prompt, i), response) for i, (_, response) in enumerate(rows)]
    size = max(tokens_per_forward // (case.prompt + case.response), 1)
    return [
        forward_batch(rows[first : first + size], policy.positions, pad_id=0) for first in range(0, len(rows), size)
    ]


def case_work(case: Case, layout: Layout, policy: PolicyModel, num_forwards: int) -> Work:
    """The least possible work of a group's forward and backward."""
    responses: Sequence[int] = [case.response] * case.group
    scored = sum(responses)
    if layout == "shared_prefix":
        tokens, pairs = case.prompt + scored, group_pairs(case.prompt, responses)
    else:
        tokens, pairs = case.group * case.prompt + scored, row_pairs(case.prompt, responses)
    images = NUM_IMAGES * (case.group if layout == "padded" else num_forwards)
    vision = vision_work(policy.backbone.model.visual, case.side, images, FORWARD_AND_BACKWARD)
    return language_work(policy.backbone, tokens, pairs, scored, FORWARD_AND_BACKWARD) + vision


def _with_own_images(prompt: Prompt, row: int) -> Prompt:
    """Give the images their own keys, as if no other row showed them."""
    return replace(prompt, image_keys=tuple(replace(key, row=row, slot=0) for key in prompt.image_keys))
