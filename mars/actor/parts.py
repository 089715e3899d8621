"""The parts of a vision-language model: vision tower, projector, language model. `actor.freeze` and `actor.lora` name
them.

Works on names of parameters alone, so that it serves a loaded model and the headers of its files. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mars.config.actor_sections import LoraConfig, Part
from mars.errors import ConfigError

# model_type of config.json -> the projector's modules within `visual`. All else in `visual` is the vision tower, and
# all else in the model, embeddings and head included, the language model.
_PROJECTORS = {
    "qwen2_5_vl": ("merger",),
    "qwen3_vl": ("merger", "deepstack_merger_list"),
}
ALL_LINEAR = "all-linear"
"""In `actor.lora.targets`, all linear layers."""
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


def adapter_layers(layers: Iterable[str], family: str, settings: LoraConfig) -> list[str]:
    """Those of a model's linear layers that get a LoRA adapter, all by their dotted names.

    The head never gets one, as in peft. Raises ConfigError if one of the targets is none of the layers.
    """
    ends = {name: name.rpartition(".")[2] for name in layers if part_of(f"{name}.weight", family) in settings.parts}
    ends = {name: end for name, end in ends.items() if end != "lm_head"}
    known = sorted(set(ends.values()))
    missing = [target for target in settings.targets if target not in (ALL_LINEAR, *known)]
    if missing:
        raise ConfigError(
            f"actor.lora.targets: no linear layer of {' and '.join(settings.parts)} is called {', '.join(missing)}; "
            f"got {settings.targets}; give [{ALL_LINEAR}] or some of {', '.join(known)}"
        )
    return [name for name, end in ends.items() if end in settings.targets or ALL_LINEAR in settings.targets]


def check_freeze(family: str | None, parts: Sequence[Part]) -> None:
    """parts: `actor.freeze`. Raises ConfigError if it names parts of a family whose parts are not known."""
    if parts:
        _check_family(family, "actor.freeze", parts, "give []")


def check_lora(family: str | None, settings: LoraConfig) -> None:
    """Raises ConfigError for a family whose parts are not known."""
    _check_family(family, "actor.lora.parts", settings.parts, "set actor.lora.rank=0")


def _check_family(family: str | None, key: str, value: object, do: str) -> None:
    """Raises ConfigError if the parts of this family are not known.

    key, value: the setting that names parts. do: what the user can do.
    """
    if family not in _PROJECTORS:
        raise ConfigError(
            f"{key}: the parts of a model of type {family} are not known, only those of {', '.join(_PROJECTORS)}; "
            f"got {value}; {do}"
        )
