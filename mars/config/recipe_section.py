"""The section `recipe`: hooks in files of mars' recipes or of the user, and their settings (docs/extend.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from mars.config.ramp_section import Ramp
from mars.config.rules import Rule
from mars.config.section import Section
from mars.plugin import is_spec

_FILE = "path/to/file.py:name"


class RecipeConfig(Section):
    """Every hook is written as "path/to/file.py:name". A relative path starts at the current folder. If it begins
    with recipe/ and does not exist there, the file of mars' own recipe/ is used."""

    sampler: str | None = Field(description=f"Which prompts a step samples: {_FILE}; null: the order of section data.")
    shaping: list[str] = Field(description=f"Amounts added to scores, each {_FILE}, in this order; []: none.")
    advantage: list[str] = Field(description=f"Rules that change advantages, each {_FILE}, in this order; []: none.")
    requests: str | None = Field(
        description=f"Requests besides a prompt's views, and texts that join its responses: {_FILE}; null: none."
    )
    tokens: str | None = Field(description=f"Rule of the trainer for single tokens: {_FILE}; null: none.")
    transforms: dict[str, str] = Field(description=f"Image transforms by name, each {_FILE}: `{{masked: {_FILE}}}`.")
    settings: dict[str, dict[str, Any]] = Field(
        description="Values of the Settings that each file declares, by the file's name, or by its folder's name if "
        "it is functions.py: `{vl_cogito: {stage: s3}}`. `recipe.settings.vl_cogito.stage=s1` changes one."
    )


Ramps = Annotated[list[Ramp], Field(description="Numbers that change during the run; []: none. docs/extend.md.")]


def _well_formed(value: str | list[str] | Mapping[str, str] | None) -> tuple[str, str] | None:
    specs = [value] if isinstance(value, str) else list(value.values()) if isinstance(value, Mapping) else value or []
    wrong = [spec for spec in specs if not is_spec(spec)]
    return (f"{wrong[0]!r} names no function", f"give {_FILE}") if wrong else None


def _none_twice(specs: list[str]) -> tuple[str, str] | None:
    return None if len(set(specs)) == len(specs) else ("a name comes twice", "give each once")


HOOKS = ("sampler", "shaping", "advantage", "requests", "tokens", "transforms")

RECIPE_RULES = (
    *(Rule((f"recipe.{hook}",), _well_formed) for hook in HOOKS),
    *(Rule((f"recipe.{hook}",), _none_twice) for hook in ("shaping", "advantage")),
)
