"""Which parameters of a model a run trains, from the model's files (docs/training.md)."""

from __future__ import annotations

import math
from pathlib import Path

from mars.actor.parts import adapter_layers, part_of
from mars.checks.weights import read_headers
from mars.config.schema import TrainConfig
from mars.data.prompts.tokenizer import read_json
from mars.families.family import ModelParts
from mars.families.table import family_of

_EMBEDDINGS = ("embed_tokens", "pos_embed")


def check_trained(config: TrainConfig) -> None:
    """Raises ConfigError if `actor.lora.targets` names layers that the model does not have."""
    lora = config.actor.lora
    if lora.rank and Path(config.model.path).is_dir():
        adapter_layers(_linear_layers(config), _parts(config), lora)


def num_trained(config: TrainConfig) -> int:
    """Number of trained parameters. `model.path` must be a folder, and `check_trained` must have passed."""
    parts, frozen, lora = _parts(config), config.actor.freeze, config.actor.lora
    if lora.rank:
        layers = _linear_layers(config)
        return sum(lora.rank * sum(layers[name]) for name in adapter_layers(layers, parts, lora))
    headers = read_headers(Path(config.model.path))
    trained = [header for name, header in headers.items() if part_of(name, parts) not in frozen]
    return sum(math.prod(header.shape) for header in trained)


def _linear_layers(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weight. All other tensors have more or fewer sides, or are embeddings."""
    headers = read_headers(Path(config.model.path))
    shapes = {name.removesuffix(".weight"): header.shape for name, header in headers.items() if len(header.shape) == 2}
    return {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in _EMBEDDINGS}


def _parts(config: TrainConfig) -> ModelParts:
    return family_of(read_json(config.model.path, "config.json").get("model_type"), "model.path").parts
