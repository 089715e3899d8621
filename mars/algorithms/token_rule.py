"""`TokenRule`: a method's own terms in the loss of single tokens, from further forwards with changed images.

The trainer calls a rule for each forward's tokens, T of them: those of several responses, one after the other. A rule
works for any packing and any number of ranks, because it sees whole responses, and totals come from `measure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, Protocol

from torch import Tensor

from mars.algorithms.token_layout import TokenLayout
from mars.changing_settings import at_step, changing_keys
from mars.errors import ConfigError


@dataclass(frozen=True)
class ScoringPass:
    """One more forward of the responses, whose log-probs come as `TokenFacts.extra[name]`.

    model: "policy", or "reference", which must be loaded (docs/config.md, algorithm.reference_every).
    transform: a name of `recipe.transforms`; None: the images as they are. strength: of the transform.
    images: those that are transformed: all of a prompt, or one of them, drawn for each prompt and step. A number is one
        image by its place in the prompt, from 0; a prompt with fewer images is scored as it is.
    gradient: False: scored once, before the step's first update, with the weights that the step began with. True:
        scored in each update with its weights, and what the loss does with these log-probs has a gradient.
    Raises ConfigError for another value.
    """

    name: str
    transform: str | None
    model: Literal["policy", "reference"] = "policy"
    strength: float = 1.0
    images: Literal["all", "one"] | int = "all"
    gradient: bool = False

    def __post_init__(self) -> None:
        number = type(self.images) is int and self.images >= 0
        wrong = [
            (self.model not in ("policy", "reference"), "model", 'give "policy" or "reference"'),
            (not number and self.images not in ("all", "one"), "images", 'give "all", "one" or a number from 0'),
            (
                type(self.strength) not in (int, float) or not isfinite(self.strength),
                "strength",
                "give a finite number",
            ),
            (type(self.gradient) is not bool, "gradient", "give True or False"),
        ]
        for is_wrong, name, do in wrong:
            if is_wrong:
                got = getattr(self, name)
                raise ConfigError(f"recipe.tokens: {name} of the pass {self.name!r} cannot be used; got {got!r}; {do}")


@dataclass(frozen=True)
class TokenFacts:
    """The tokens of one forward. Every tensor is float32 [T], with 0 where `layout.mask` is False; three are bool.

    logprobs: with the current weights, with gradient; in `measure` the old ones.
    old: with the weights before the step's first update. reference: of the reference model if the loss has a KL term,
        else None; None in `measure`. entropy: of each token's distribution in nats, without gradient.
    extra: name of a `ScoringPass` -> its log-probs. In `measure` only those without gradient.
    advantages: that of the token's response. off_policy: whether the token's response is a guest, of `recipe.requests`
        or of `anchor.guide`, which was not sampled from the prompt that it is trained with; False where `layout.mask`
        is False. guests: whether it is one of `anchor.guide`.
    with_images: whether the token's prompt has an image; False where `layout.mask` is False. Without one, every pass
        scores the prompt as it is, with the weights of that pass.
    layout: which response each token belongs to, and which tokens are trained on, without those that
        importance_mode=mask leaves out; the same in `measure` and `apply`. A forward may have none: then mask is False
        everywhere, or T is 0.
    settings: `TrainBatch.settings`.
    """

    logprobs: Tensor
    old: Tensor
    reference: Tensor | None
    entropy: Tensor
    extra: Mapping[str, Tensor]
    advantages: Tensor
    off_policy: Tensor
    guests: Tensor
    with_images: Tensor
    layout: TokenLayout
    settings: Mapping[str, float]

    def now(self, file: str, settings: Any) -> Any:
        """The `Settings` of a file with the values of this step's `ramps`. file: its name in `recipe.settings`.

        Raises ConfigError if a ramp changes these settings, and they are those of another file.
        Example: with settings {"recipe.settings.own.weight": 0.2}, now("own", Settings(weight=1.0)) has weight 0.2.
        """
        prefix = f"recipe.settings.{file}."
        for key in changing_keys(settings):
            if not key.startswith(prefix):
                wrong = "the token rule reads its settings with `TokenFacts.now` as those of another file"
                raise ConfigError(f"ramps: {key}: {wrong}; got {file!r}; give the rule's own, or leave this ramp out")
        values = {key.removeprefix(prefix): value for key, value in self.settings.items() if key.startswith(prefix)}
        return at_step(settings, values)


@dataclass(frozen=True)
class Measured:
    """A number of one forward, and how those of all forwards and ranks become one. value: a scalar tensor.

    `measure` must return a value for a forward without trained tokens too: 0 for "sum", infinity for "min", minus
    infinity for "max".
    """

    reduce: Literal["sum", "min", "max"]
    value: Tensor


@dataclass(frozen=True)
class TokenTerms:
    """What a rule changes in the loss of one forward; None: nothing. Each term is [T] and not read outside the mask.

    advantages: replace those of the policy loss. No gradient flows through them.
    pg_weights: multiply the policy loss of each token, after ratio and clipping. Denominators count all tokens still.
        No gradient flows through them; a term with a gradient belongs into `extra_loss`.
    extra_loss: added to the loss, with its gradient; reduced like the policy loss (`algorithm.reduction`).
    means: name -> (sum, count), two scalars; the metric `recipe/<name>` is total sum / total count over the update.
    """

    advantages: Tensor | None = None
    pg_weights: Tensor | None = None
    extra_loss: Tensor | None = None
    means: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class TokenRule(Protocol):
    """A rule of `recipe.tokens`.

    passes: the further forwards that it needs. Each costs as much as a forward for old log-probs; a pass with gradient
    costs two such forwards and a backward. measures: whether `measure` is called. If so, the first update of a step
    needs a separate forward for the old log-probs. Otherwise it takes them from its own forward.

    Both methods depend on their arguments alone, and give the same names in every call. A rule may have an attribute
    `ramps`, a tuple of names of settings that both methods read with `TokenFacts.now`: these may change during a run.
    """

    @property
    def passes(self) -> tuple[ScoringPass, ...]: ...

    @property
    def measures(self) -> bool: ...

    def measure(self, facts: TokenFacts) -> Mapping[str, Measured]:
        """Called for every forward of an update before the update; no gradient. The totals are what `apply` gets."""
        ...

    def apply(self, facts: TokenFacts, totals: Mapping[str, float]) -> TokenTerms:
        """The terms of one forward. totals: of `measure` over the forwards of the update on all ranks; else {}."""
        ...
