"""Image transforms and token rules from users' files."""

from __future__ import annotations

import pytest

from mars.checks.hooks import checked_hooks
from mars.config.recipe_section import RecipeConfig
from mars.errors import ConfigError
from mars.hooks.load import resolved
from mars.hooks.of_workers import image_transforms, token_rule
from tests.builders import train_config

ASKING = """
from mars.algorithms.scoring import ScoringSpec
from mars.hooks.contract import Signal

class Asking:
    part, on, signals = "asking", "multi", (Signal(ScoringSpec("a", "mean", model="MODEL")),)

    def __call__(self, item, facts):
        return facts.signals["a"]
"""
FILE = """
from dataclasses import dataclass
from mars.algorithms.token_rule import ScoringPass, TokenTerms
from mars.data.pixels.transforms import blank_patches

@dataclass(frozen=True)
class Settings:
    share: float
    passes: int

def masked(settings):
    return blank_patches(settings.share, 14)

def no_transform(settings):
    return lambda image: image

class Rule:
    measures = False

    def __init__(self, settings):
        self.passes = (ScoringPass("masked", "masked"),) * settings.passes

    def measure(self, facts): return {}
    def apply(self, facts, totals): return TokenTerms()

class WithReference(Rule):
    def __init__(self, settings):
        self.passes = (ScoringPass("reference", None, model="reference", gradient=True),)

class OfReference(Rule):
    def __init__(self, settings):
        self.passes = (ScoringPass("reference", None, model="reference"),)

class Texts(Rule):
    def __init__(self, settings):
        self.passes = ("masked",)

class WithoutComma(Rule):
    def __init__(self, settings):
        self.passes = (ScoringPass("masked", "masked"))
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "papo.py"
    path.write_text(FILE)

    def make(tokens="Rule", passes=1, transforms=("masked",), function="masked"):
        return resolved(
            RecipeConfig(
                sampler=None, shaping=[], advantage=[], requests=None,
                tokens=tokens and f"{path}:{tokens}",
                transforms=dict.fromkeys(transforms, f"{path}:{function}"),
                settings={"papo": {"share": 0.6, "passes": passes}},
            )
        )  # fmt: skip

    return make


def test_both_are_made_with_the_settings_of_their_file(recipe):
    assert list(image_transforms(recipe(), ramps=[])) == ["masked"]
    rule = token_rule(recipe(), with_reference=False, ramps=[])
    assert rule is not None
    assert [one.transform for one in rule.passes] == ["masked"]
    assert token_rule(recipe(tokens=None), with_reference=False, ramps=[]) is None
    assert token_rule(recipe(tokens="OfReference"), with_reference=True, ramps=[]) is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"passes": 2}, r"recipe\.tokens: .*papo.py:Rule: two passes have the name 'masked'; rename one"),
        (
            {"transforms": ("other",)},
            r"recipe\.transforms: pass 'masked' of recipe.tokens needs a transform 'masked'; got other; set "
            r"recipe\.transforms\.masked=",
        ),
        ({"tokens": "WithReference"}, r"pass 'reference': the reference model has no gradient; use gradient=False"),
        ({"tokens": "Texts"}, "want a tuple of ScoringPass as passes, and a bool as measures"),
        (
            {"tokens": "WithoutComma"},
            r"want a tuple of ScoringPass .* a tuple of one has a comma: \(ScoringPass\(...\),\)",
        ),
        (
            {"tokens": "OfReference"},
            r"^recipe\.tokens: pass 'reference' scores with the reference model, and none is loaded; set algorithm\.kl",
        ),
        ({"tokens": "masked"}, "makes a function without 'passes'"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(recipe, given, message):
    with pytest.raises(ConfigError, match=message):
        token_rule(recipe(**given), with_reference=False, ramps=[])


@pytest.mark.parametrize(
    ("tokens", "signal", "coefficient", "warned"),
    [
        ("Rule", "policy", 0.0, True), ("OfReference", "policy", 0.0, False), ("Rule", "policy", 0.1, False),
        ("Rule", "reference", 0.0, False),
    ],
)  # fmt: skip
def test_a_reference_that_nothing_reads_is_warned_of(recipe, tmp_path, caplog, tokens, signal, coefficient, warned):
    (tmp_path / "asking.py").write_text(ASKING.replace("MODEL", signal))
    given = recipe(tokens=tokens).model_copy(update={"shaping": [f"{tmp_path}/asking.py:Asking"]})
    config = train_config(kl_coefficient=coefficient, reference_decay=0.5, reference_every=1)
    checked_hooks(config.model_copy(update={"recipe": given}))
    assert ("algorithm.reference_every: the reference model costs memory" in caplog.text) == warned


@pytest.mark.parametrize(
    ("tokens", "asks", "unused"),
    [(None, False, "masked, other"), ("Rule", False, "other"), (None, True, "masked")],
)
def test_transforms_that_nothing_uses_are_named(recipe, tmp_path, caplog, tokens, asks, unused):
    """`Rule` uses masked, and the signal of `Asking` uses other."""
    (tmp_path / "asking.py").write_text(ASKING.replace('"MODEL"', '"policy", transform="other"'))
    shaping = [f"{tmp_path}/asking.py:Asking"] if asks else []
    given = recipe(tokens=tokens, transforms=("masked", "other")).model_copy(update={"shaping": shaping})
    checked_hooks(train_config().model_copy(update={"recipe": given}))
    assert f"recipe.transforms: no pass of recipe.tokens and no signal of recipe.shaping uses {unused};" in caplog.text


def test_a_dry_run_refuses_a_pass_of_a_reference_that_is_not_loaded(recipe):
    config = train_config()
    checked_hooks(config.model_copy(update={"recipe": recipe()}))
    with pytest.raises(ConfigError, match="scores with the reference model, and none is loaded"):
        checked_hooks(config.model_copy(update={"recipe": recipe(tokens="OfReference")}))


def test_a_transform_that_takes_other_arguments_is_refused(recipe):
    with pytest.raises(ConfigError, match=r"recipe\.transforms\.masked: .*__call__ takes \(image\), not 3 arguments"):
        image_transforms(recipe(function="no_transform"), ramps=[])
