"""Which parameters of a model a run trains, from the model's files (docs/training.md)."""

from __future__ import annotations

import math
from pathlib import Path

from mars.actor.parts import adapter_layers, check_freeze, check_lora, part_of
from mars.checks.weights import read_headers
from mars.config.schema import TrainConfig
from mars.data.prompts.tokenizer import read_json

_EMBEDDINGS = ("embed_tokens", "pos_embed")


def check_trained(config: TrainConfig) -> None:
    """Raises ConfigError if `actor.freeze` or `actor.lora` names what a model of this family does not have."""
    frozen, lora = config.actor.freeze, config.actor.lora
    if not frozen and not lora.rank:
        return
    family = _family(config)
    check_freeze(family, frozen)
    if lora.rank:
        check_lora(family, lora)
        if Path(config.model.path).is_dir():
            adapter_layers(_linear_layers(config), family, lora)


def num_trained(config: TrainConfig) -> int:
    """Number of trained parameters. `model.path` must be a folder, and `check_trained` must have passed."""
    family, frozen, lora = _family(config), config.actor.freeze, config.actor.lora
    if lora.rank:
        layers = _linear_layers(config)
        return sum(lora.rank * sum(layers[name]) for name in adapter_layers(layers, family, lora))
    headers = read_headers(Path(config.model.path))
    trained = [header for name, header in headers.items() if not frozen or part_of(name, family) not in frozen]
    return sum(math.prod(header.shape) for header in trained)


def _linear_layers(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weight. All other tensors have more or fewer sides, or are embeddings."""
    headers = read_headers(Path(config.model.path))
    shapes = {name.removesuffix(".weight"): header.shape for name, header in headers.items() if len(header.shape) == 2}
    return {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in _EMBEDDINGS}


def _family(config: TrainConfig) -> str:
    return str(read_json(config.model.path, "config.json").get("model_type"))
