"""`TokenRule`: a method's own terms in the loss of single tokens. They may use further forwards (`ScoringPass`), for
example with changed images or of the reference model.

The trainer calls a rule for each forward, with the T tokens of several responses, one response after the other. A rule
always gets whole responses. What it needs to know of the other forwards and ranks it gets as totals, to which each
forward contributes by `measure`.
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
    """One more forward of the responses. Its log-probs are `TokenFacts.extra[name]`.

    model: "policy", or "reference", which must be loaded (docs/config.md, algorithm.reference_every).
    transform: a name of `recipe.transforms`; None: the images as they are. strength: of the transform.
    images: which images of a prompt are transformed: "all"; "one", drawn for each prompt and step; or a number from 0,
        the image at this place. A prompt with fewer images is not changed.
    gradient: False: scored once, before the step's first update, with the weights that the step began with. True:
        scored in each update with the update's weights, and a loss of these log-probs has a gradient.
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
    """The tokens of one forward. Tensors are float32 [T], three are bool [T]. They are 0 or False outside
    `layout.mask`.

    logprobs: with the current weights, with gradient; in `measure` the old ones.
    old: with the weights before the step's first update. reference: of the reference model if the loss has a KL term,
        else None; None in `measure`. entropy: of each token's distribution in nats, without gradient.
    extra: name of a `ScoringPass` -> its log-probs. In `measure` only those without gradient.
    advantages: that of the token's response.
    off_policy: bool, whether the token's response is a guest (`recipe.requests` or `anchor.guide`). guests: bool,
        whether it is a guest of `anchor.guide`.
    with_images: bool, whether the token's prompt has an image. If not, every pass scores the unchanged prompt.
    layout: which response each token belongs to, and which tokens are trained on, without those that
        importance_mode=mask leaves out; the same in `measure` and `apply`. A forward may have no such token: then the
        mask is False everywhere, or T is 0.
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
        """`settings` with this step's values of those that have ramps. file: the name in `recipe.settings` of the file
        to which these settings belong.

        Raises ConfigError if a ramp changes these settings, but `file` is not the file that they belong to.
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
    """A number of one forward, and how the numbers of all forwards and ranks are combined. value: a scalar tensor.

    For a forward without trained tokens, `measure` must return 0 for "sum", infinity for "min" and minus infinity for
    "max".
    """

    reduce: Literal["sum", "min", "max"]
    value: Tensor


@dataclass(frozen=True)
class TokenTerms:
    """What a rule changes in the loss of one forward; None: nothing.

    The first three are [T]; their values at tokens that are not trained on are ignored.

    advantages: replace those of the policy loss. No gradient flows through them.
    pg_weights: multiply the policy loss of each token, after ratio and clipping. Denominators still count all tokens.
        No gradient flows through them; put a term with a gradient into `extra_loss`.
    extra_loss: added to the loss, with its gradient; reduced like the policy loss (`algorithm.reduction`).
    means: name -> (sum, count), two scalars; the metric `recipe/<name>` is total sum / total count over the update.
    """

    advantages: Tensor | None = None
    pg_weights: Tensor | None = None
    extra_loss: Tensor | None = None
    means: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class TokenRule(Protocol):
    """A rule of `recipe.tokens`.

    passes: the further forwards that it needs. A pass without gradient costs as much as a forward for old log-probs, a
    pass with gradient two such forwards and a backward. measures: whether `measure` is called. If so, the first update
    of a step needs a separate forward for the old log-probs.

    The results of `measure` and `apply` must depend only on their arguments, and have the same names in every call. A
    rule may have an attribute `ramps`: the names of settings that may change during a run. Both methods read them with
    `TokenFacts.now`.
    """

    @property
    def passes(self) -> tuple[ScoringPass, ...]: ...

    @property
    def measures(self) -> bool: ...

    def measure(self, facts: TokenFacts) -> Mapping[str, Measured]:
        """Called for every forward of an update before the update; no gradient."""
        ...

    def apply(self, facts: TokenFacts, totals: Mapping[str, float]) -> TokenTerms:
        """The terms of one forward. totals: of `measure` over the update's forwards on all ranks; {} without
        `measures`."""
        ...
