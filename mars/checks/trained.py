"""Which parameters of a model a run trains, from the model's files (docs/training.md)."""

from __future__ import annotations

import math
from pathlib import Path

from mars.actor.parts import adapter_layers, part_of
from mars.checks.weights import TensorHeader, model_headers
from mars.config.actor_sections import PolicyTrainingConfig
from mars.config.schema import ModelConfig
from mars.data.prompts.tokenizer import read_json
from mars.families.family import ModelParts
from mars.families.table import family_of

_EMBEDDINGS = ("embed_tokens", "pos_embed")


def check_trained(model: ModelConfig, section: str, training: PolicyTrainingConfig) -> None:
    """Raises ConfigError if `lora.targets` and `lora.parts` do not fit the model, as `adapter_layers` does.

    section: name of the section that `training` is, "actor" or "sft", for messages.
    """
    if training.lora.rank and Path(model.path).is_dir():
        adapter_layers(_linear_layers(model), _parts(model), training.lora, section)


def num_trained(model: ModelConfig, training: PolicyTrainingConfig) -> int:
    """Number of trained parameters. `model.path` must be a folder, and `check_trained` must have passed."""
    parts, frozen, lora = _parts(model), training.freeze, training.lora
    if lora.rank:
        layers = _linear_layers(model)
        return sum(lora.rank * sum(layers[name]) for name in adapter_layers(layers, parts, lora))
    headers = _headers(model)
    trained = [header for name, header in headers.items() if part_of(name, parts) not in frozen]
    return sum(math.prod(header.shape) for header in trained)


def _linear_layers(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weight. Every tensor with two dimensions counts, except the embeddings."""
    headers = _headers(model)
    shapes = {name.removesuffix(".weight"): header.shape for name, header in headers.items() if len(header.shape) == 2}
    return {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in _EMBEDDINGS}


def _headers(model: ModelConfig) -> dict[str, TensorHeader]:
    return model_headers(Path(model.path), _parts(model).not_loaded)


def _parts(model: ModelConfig) -> ModelParts:
    return family_of(read_json(model.path, "config.json").get("model_type"), "model.path").parts
