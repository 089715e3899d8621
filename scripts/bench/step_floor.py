"""The floors of a step's stages: operations and bytes that cannot be avoided, counted from the settings of the run.

Generation and update multiply matrices, and the weight sync moves bytes. The other stages have no floor.
docs/performance.md explains the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mars.config.load import load_config
from mars.config.schema import TrainConfig
from scripts.bench.speed import measured_rates
from scripts.bench.trainer_floor import (
    FLOAT_BYTES,
    FORWARD,
    FORWARD_AND_BACKWARD,
    Work,
    causal_pairs,
    decoder_attention,
    floor_seconds,
    group_pairs,
    head_size,
    language_work,
    vision_work,
)
from scripts.bench.training import BENCH
from scripts.bench.workload import prompt_tokens

Images = tuple[int, int]
"""The images of a prompt: how many, and the pixels of their sides."""


@dataclass(frozen=True)
class View:
    """prompt: number of tokens, including image tokens. samples: number of responses."""

    prompt: int
    samples: int


@dataclass(frozen=True)
class StepShape:
    """A step whose prompts all have the same shape.

    views: those of a prompt. The first shows all images and is trained on, the others are anchors. images: number per
    prompt, squares of image_side pixels. response: tokens of every sample. ranks: number of trainer ranks.
    """

    prompts: int
    views: tuple[View, ...]
    images: int
    image_side: int
    response: int
    ranks: int


def measured_floors(
    runs: Mapping[str, tuple[Sequence[str], Images]], model: Path
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Speed of one thread of this process, and the floors of each run, by its name.

    runs: the overrides of each run, and the images of its prompts. model: the folder that all of them load.
    """
    torch.set_num_threads(1)
    rates, backbone = measured_rates(), skeleton(model)
    configs = {name: load_config("train", overrides, [str(BENCH)]) for name, (overrides, _) in runs.items()}
    shapes = {name: step_shape(config, runs[name][1]) for name, config in configs.items()}
    return rates, {name: floor_report(stage_works(backbone, shape), rates) for name, shape in shapes.items()}


def step_shape(config: TrainConfig, images: Images) -> StepShape:
    """The shape of a step on the prompts of scripts/bench/workload.py.

    Example: two sources of 112 pixels, anchor=mono, 6 + 1 + 1 samples -> a view of 131 tokens, two of 113.
    """
    num_sources, image_side = images
    shown = {"none": 0, "mono": 1, "all_but_one": num_sources - 1}[config.anchor.kind]
    multi = View(prompt_tokens(num_sources, image_side), config.rollout.samples_per_prompt)
    anchor = View(prompt_tokens(shown, image_side), config.anchor.samples_per_view)
    return StepShape(
        prompts=config.data.prompts_per_step,
        views=(multi, *[anchor] * (num_sources if shown else 0)),
        images=num_sources,
        image_side=image_side,
        response=config.rollout.max_response_tokens,
        ranks=config.actor.num_workers,
    )


def skeleton(folder: Path) -> nn.Module:
    """The model of a folder on the meta device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))


def stage_works(backbone: nn.Module, shape: StepShape) -> dict[str, Work]:
    """The work of each stage, named as in `timing_s/*`."""
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    return {
        "gen": generation_work(backbone, shape),
        "update_actor": update_work(backbone, shape),
        # The engine has its own copy of the weights, so each is read once and written once.
        "sync_weights": Work(0.0, 2.0 * FLOAT_BYTES * weights),
    }


def generation_work(backbone: nn.Module, shape: StepShape) -> Work:
    """The work of one engine that runs all samples at once, in as many forwards as a response has tokens.

    The first forward computes each image and each view's prompt once and gives the first token of all samples. Each
    later forward computes one token per sample. The last token is not fed. Prompts share nothing with each other.
    """
    config = backbone.model.language_model.config
    prompts = shape.prompts * len(shape.views)
    tokens = shape.prompts * sum(view.prompt for view in shape.views)
    pairs = shape.prompts * sum(causal_pairs(view.prompt) for view in shape.views)
    samples = shape.prompts * sum(view.samples for view in shape.views)
    fed = shape.response - 1
    seen = shape.prompts * sum(view.samples * causal_pairs(fed, view.prompt) for view in shape.views)
    return (
        _vision(backbone, shape, shape.prompts * shape.images, FORWARD)
        + language_work(backbone, tokens, pairs, prompts, FORWARD)
        + language_work(backbone, samples, 0, samples, FORWARD).times(fed)
        + decoder_attention(config, seen, FORWARD)
        + Work(0.0, cache_token_bytes(config) * float(cache_reads(shape)))
    )


def update_work(backbone: nn.Module, shape: StepShape) -> Work:
    """The work of forward and backward in the rank with the most groups: each prompt and image once, all responses."""
    groups = -(-shape.prompts // shape.ranks)
    multi = shape.views[0]
    responses = [shape.response] * multi.samples
    scored, pairs = groups * sum(responses), groups * group_pairs(multi.prompt, responses)
    tokens = groups * multi.prompt + scored
    return _vision(backbone, shape, groups * shape.images, FORWARD_AND_BACKWARD) + language_work(
        backbone, tokens, pairs, scored, FORWARD_AND_BACKWARD
    )


def cache_reads(shape: StepShape) -> int:
    """How many times decoding reads the keys and values of a token, summed over all tokens. A forward reads those of a
    prompt's tokens once for all samples.

    Example: prompt 5, 2 samples of 3 tokens, of which 2 are fed, so 2 forwards: 2 * 5 + 2 * (1 + 2) = 16.
    """
    fed = shape.response - 1
    return shape.prompts * sum(fed * view.prompt + view.samples * causal_pairs(fed) for view in shape.views)


def cache_token_bytes(config: Any) -> int:
    """Bytes of one token's keys and values in all layers. config: that of the decoder."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size(config) * FLOAT_BYTES


def floor_report(works: Mapping[str, Work], rates: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The work and the least possible seconds of each stage. rates: from `measured_rates`."""
    return {
        stage: {
            "operations": work.operations,
            "bytes": work.bytes,
            "floor_seconds": floor_seconds(work, rates["operations_per_second"], rates["bytes_per_second"]),
        }
        for stage, work in works.items()
    }


def _vision(backbone: nn.Module, shape: StepShape, images: int, passes: int) -> Work:
    visual = backbone.model.visual
    return vision_work(visual, shape.image_side // visual.config.patch_size, images, passes)
