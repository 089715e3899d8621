"""Which parameters of a model a run trains, from the model's files (docs/clusters.md)."""

from __future__ import annotations

import math
from pathlib import Path

from mars.actor.parts import check_family, part_of
from mars.checks.weights import read_headers
from mars.config.schema import TrainConfig
from mars.data.prompts.tokenizer import read_json


def check_trained(config: TrainConfig) -> None:
    """Raises ConfigError if `actor.freeze` names parts that are not known for a model of this family."""
    frozen = config.actor.freeze
    if frozen:
        check_family(_family(config), "actor.freeze", frozen)


def num_trained(config: TrainConfig) -> int:
    """Number of trained parameters. `model.path` must be a folder, and `check_trained` must have passed."""
    family, frozen = _family(config), config.actor.freeze
    headers = read_headers(Path(config.model.path))
    trained = [header for name, header in headers.items() if not frozen or part_of(name, family) not in frozen]
    return sum(math.prod(header.shape) for header in trained)


def _family(config: TrainConfig) -> str:
    return str(read_json(config.model.path, "config.json").get("model_type"))
