"""The hooks that engines and trainers call: `recipe.transforms` and `recipe.tokens`.

Each worker makes them from the files, when it first needs them.
"""

from __future__ import annotations

from collections import Counter

from mars.algorithms.token_rule import ScoringPass, TokenRule
from mars.config.recipe_section import RecipeConfig
from mars.errors import ConfigError
from mars.hooks.load import make_hook
from mars.image_transform import ImageTransform


def image_transforms(recipe: RecipeConfig) -> dict[str, ImageTransform]:
    """The transforms by name. recipe: `resolved`. Raises ConfigError."""
    return {
        name: make_hook(recipe, f"recipe.transforms.{name}", spec, {"__call__": 3})
        for name, spec in recipe.transforms.items()
    }


def token_rule(recipe: RecipeConfig) -> TokenRule | None:
    """The rule, None without one. recipe: `resolved`.

    Raises ConfigError for two passes of one name, and for a transform that is not in `recipe.transforms`.
    """
    if recipe.tokens is None:
        return None
    key = "recipe.tokens"
    members = {"passes": None, "measures": None, "measure": 1, "apply": 2}
    rule: TokenRule = make_hook(recipe, key, recipe.tokens, members)
    if not all(isinstance(one, ScoringPass) for one in rule.passes) or not isinstance(rule.measures, bool):
        raise ConfigError(f"{key}: {recipe.tokens}: want a tuple of ScoringPass as passes, and a bool as measures")
    names = Counter(one.name for one in rule.passes)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ConfigError(f"{key}: {recipe.tokens}: two passes have the name {twice[0]!r}; rename one")
    for one in rule.passes:
        if one.transform is not None and one.transform not in recipe.transforms:
            known = ", ".join(recipe.transforms) or "none"
            raise ConfigError(
                f"recipe.transforms: pass {one.name!r} of recipe.tokens needs a transform {one.transform!r}; "
                f"got {known}; set recipe.transforms.{one.transform}=path/to/file.py:name"
            )
        if one.model == "reference" and one.gradient:
            raise ConfigError(f"{key}: pass {one.name!r}: the reference model has no gradient; use gradient=False")
    return rule
