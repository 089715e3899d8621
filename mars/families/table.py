"""The families that mars supports."""

from __future__ import annotations

from mars.errors import SetupError
from mars.families.family import Family
from mars.families.qwen2_5_vl import QWEN2_5_VL
from mars.families.qwen3_vl import QWEN3_VL

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN2_5_VL, QWEN3_VL)}
"""config.json's model_type -> family."""


def family_of(model_type: object, where: str) -> Family:
    """The family of a model. where: the setting and the file, for the message. Raises SetupError if there is none."""
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(f"{family.model_type} ({family.name})" for family in FAMILIES.values())
        raise SetupError(
            f"{where}: model_type must be one of {known}; got {model_type!r:.80}; use a model of one of these families"
        )
    return family
