"""The parts of a vision-language model, which `actor.freeze` names: vision tower, projector, language model.

Works on names of parameters alone, so that it serves a loaded model and the headers of its files. Imports no torch.
"""

from __future__ import annotations

import re
from typing import Literal

from mars.errors import ConfigError

Part = Literal["vision", "projector", "language"]

# model_type of config.json -> the projector's modules within `visual`. All else in `visual` is the vision tower, and
# all else in the model, embeddings and head included, the language model.
_PROJECTORS = {
    "qwen2_5_vl": ("merger",),
    "qwen3_vl": ("merger", "deepstack_merger_list"),
}
_IN_VISUAL = re.compile(r"(?:^|\.)visual\.(\w+)")


def part_of(name: str, family: str) -> Part:
    """The part of a parameter or module. name: its dotted name in the model or in its files. family: its model_type.

    >>> part_of("model.visual.merger.mlp.0.weight", "qwen2_5_vl"), part_of("visual.blocks.0.norm1.weight", "qwen2_5_vl")
    ('projector', 'vision')
    """
    found = _IN_VISUAL.search(name)
    if found is None:
        return "language"
    return "projector" if found[1] in _PROJECTORS[family] else "vision"


def check_family(family: str | None, key: str, value: object) -> None:
    """Raises ConfigError if the parts of this family are not known. key, value: the setting that names parts."""
    if family not in _PROJECTORS:
        raise ConfigError(
            f"{key}: the parts of a model of type {family} are not known, only those of {', '.join(_PROJECTORS)}; "
            f"got {value}; give []"
        )
