"""The families that mars supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mars.errors import SetupError
from mars.families.family import Family
from mars.families.internvl import INTERNVL
from mars.families.qwen2_5_vl import QWEN2_5_VL
from mars.families.qwen2_vl import QWEN2_VL
from mars.families.qwen3_5 import QWEN3_5
from mars.families.qwen3_vl import QWEN3_VL

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (QWEN2_5_VL, QWEN3_VL, QWEN3_5, QWEN2_VL, INTERNVL)
}
"""config.json's model_type -> family."""


def check_language(family: Family, config: Mapping[str, Any], where: str) -> None:
    """Raises SetupError if the language model is not one of the family's. It is not checked if config.json lacks it."""
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, dict) else None
    if kind is not None and family.language_types and kind not in family.language_types:
        known = ", ".join(family.language_types)
        raise SetupError(
            f"{where}: text_config.model_type must be one of {known} in a model of {family.name}; got {kind!r:.80}; "
            "use a model with such a language model"
        )


def family_of(model_type: object, where: str) -> Family:
    """The family of a model. where: the setting and the file, for the message. Raises SetupError if there is none."""
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(f"{family.model_type} ({family.name})" for family in FAMILIES.values())
        raise SetupError(
            f"{where}: model_type must be one of {known}; got {model_type!r:.80}; use a model of one of these families"
        )
    return family
