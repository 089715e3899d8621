"""The hooks that engines and trainers call: `recipe.transforms` and `recipe.tokens`.

Each worker loads them from the recipe's .py files itself, when it first needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mars.algorithms.token_rule import ScoringPass, TokenRule
from mars.config.ramp_section import Ramp
from mars.config.recipe_section import RecipeConfig
from mars.errors import ConfigError
from mars.hooks.load import make_hook
from mars.image_transform import ImageTransform


def image_transforms(recipe: RecipeConfig, ramps: Sequence[Ramp]) -> dict[str, ImageTransform]:
    """The transforms by name. Raises ConfigError as `make_hook` does.

    recipe: as `resolved` of mars/hooks/load.py returns it.
    ramps: those of the run. A transform that reads a setting which one of them changes gets a ConfigError.
    """
    return {
        name: make_hook(recipe, f"recipe.transforms.{name}", spec, {"__call__": 3}, [], ramps)
        for name, spec in recipe.transforms.items()
    }


def token_rule(recipe: RecipeConfig, *, with_reference: bool, ramps: Sequence[Ramp]) -> TokenRule | None:
    """The token rule; None without one. with_reference: whether a reference model is loaded.

    recipe: as `resolved` of mars/hooks/load.py returns it.
    ramps: of the run. To get the settings that they change, the rule calls `TokenFacts.now`.

    Raises ConfigError for two passes of one name, for a transform that is not in `recipe.transforms`, and for a pass of
    the reference model if there is none.
    """
    if recipe.tokens is None:
        return None
    key = "recipe.tokens"
    members = {"passes": None, "measures": None, "measure": 1, "apply": 2}
    rule: TokenRule = make_hook(recipe, key, recipe.tokens, members, [], ramps)
    is_tuple = isinstance(rule.passes, tuple | list) and all(isinstance(one, ScoringPass) for one in rule.passes)
    if not is_tuple or not isinstance(rule.measures, bool):
        raise ConfigError(
            f"{key}: {recipe.tokens}: want a tuple of ScoringPass as passes, and a bool as measures; "
            f"got {rule.passes!r} and {rule.measures!r}; a tuple of one has a comma: (ScoringPass(...),)"
        )
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
        if one.model == "reference" and not with_reference:
            raise ConfigError(
                f"{key}: pass {one.name!r} scores with the reference model, and none is loaded; "
                "set algorithm.kl_coefficient above 0, or algorithm.reference_every"
            )
    return rule
