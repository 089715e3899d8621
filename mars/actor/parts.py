"""Which part of the model a module belongs to: vision tower, projector or language model.

Uses only names, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mars.config.actor_sections import LoraConfig, Part
from mars.errors import ConfigError
from mars.families.family import ModelParts

ALL_LINEAR = "all-linear"
"""In `lora.targets`, all linear layers."""


def part_of(name: str, parts: ModelParts) -> Part:
    """The part of the model to which a parameter or module belongs. name: its dotted name in the model or in the files
    of the model.

    Example for Qwen2.5-VL: model.visual.merger.mlp.0.weight belongs to the projector. visual.blocks.0.norm1.weight, a
    name in older files, which lack "model.", belongs to the vision tower.
    """
    if _is_below(name, parts.projector):
        return "projector"
    return "vision" if _is_below(name, parts.vision) else "language"


def _is_below(name: str, modules: Sequence[str]) -> bool:
    own = name.removeprefix("model.")
    return any(f"{own}.".startswith(f"{module.removeprefix('model.')}.") for module in modules)


def adapter_layers(layers: Iterable[str], parts: ModelParts, settings: LoraConfig, section: str = "actor") -> list[str]:
    """The linear layers of a model that get a LoRA adapter. layers, result: dotted names.

    section: of the settings, for messages.

    The head never gets an adapter, as in peft. A target is `ALL_LINEAR` or what follows the last dot of a layer's name,
    such as "q_proj". Raises ConfigError if no layer of `settings.parts` fits a target, or if one of these parts gets no
    adapter.
    """
    ends = {name: name.rpartition(".")[2] for name in layers if part_of(name, parts) in settings.parts}
    ends = {name: end for name, end in ends.items() if end != "lm_head"}
    known = sorted(set(ends.values()))
    missing = [target for target in settings.targets if target not in (ALL_LINEAR, *known)]
    if missing:
        raise ConfigError(
            f"{section}.lora.targets: no linear layer of {' and '.join(settings.parts)} is called "
            f"{', '.join(missing)}; got {settings.targets}; give [{ALL_LINEAR}] or some of {', '.join(known)}"
        )
    chosen = [name for name, end in ends.items() if end in settings.targets or ALL_LINEAR in settings.targets]
    for part in settings.parts:
        if not any(part_of(name, parts) == part for name in chosen):
            own = sorted({end for name, end in ends.items() if part_of(name, parts) == part})
            raise ConfigError(
                f"{section}.lora.parts: none of {section}.lora.targets={settings.targets} is a linear layer of {part}; "
                f"got {settings.parts}; leave {part} out, or add some of {', '.join(own)} to the targets"
            )
    return chosen
