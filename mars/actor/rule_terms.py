"""A token rule's part in an objective: the rule's input for a forward, and the check of its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mars.actor.reading import agreed_names
from mars.actor.targets import TokenTargets
from mars.algorithms.token_rule import Measured, TokenFacts, TokenRule, TokenTerms
from mars.errors import ConfigError, MarsError
from mars.users_code import calling

_KEY = "recipe.tokens"
_REDUCED = {
    "sum": (torch.add, dist.ReduceOp.SUM),
    "min": (torch.minimum, dist.ReduceOp.MIN),
    "max": (torch.maximum, dist.ReduceOp.MAX),
}


@dataclass(frozen=True)
class RuleInputs:
    """What a rule gets for one forward besides the objective's own tensors.

    extra: name of a pass -> its log-probs, [T]. settings: the step's values of `ramps`, by key.
    totals: the results of the rule's `measure`, combined over the forwards of the update on all ranks.
    """

    rule: TokenRule
    extra: Mapping[str, Tensor]
    totals: Mapping[str, float]
    settings: Mapping[str, float]

    def terms(
        self, logprobs: Tensor, old: Tensor, reference: Tensor | None, entropy: Tensor, tokens: TokenTargets
    ) -> TokenTerms:
        """The rule's terms.

        Raises ConfigError if `apply` fails, for a term that is not [T], and for a mean that is not a pair of scalars.
        """
        facts = facts_of(logprobs, old, reference, entropy.detach(), self.extra, tokens, self.settings)
        terms = _called(self.rule, "apply", facts, self.totals)
        if not isinstance(terms, TokenTerms):
            raise ConfigError(f"{_KEY}: apply must return TokenTerms; got {type(terms).__name__}")
        for name in ("advantages", "pg_weights", "extra_loss"):
            term = getattr(terms, name)
            if term is not None and _shape(term) != tuple(logprobs.shape):
                raise ConfigError(f"{_KEY}: {name} of apply has shape {_shape(term)}; want {tuple(logprobs.shape)}")
        if not isinstance(terms.means, Mapping):
            raise ConfigError(f"{_KEY}: means of apply must be a dictionary; got {type(terms.means).__name__}")
        for name, mean in terms.means.items():
            if not isinstance(mean, tuple | list) or [_shape(value) for value in mean] != [(), ()]:
                raise ConfigError(f"{_KEY}: the mean {name!r} of apply is no pair of scalar tensors; got {mean!r}")
        return terms


def facts_of(
    logprobs: Tensor,
    old: Tensor,
    reference: Tensor | None,
    entropy: Tensor,
    extra: Mapping[str, Tensor],
    tokens: TokenTargets,
    settings: Mapping[str, float],
) -> TokenFacts:
    """The rule's view of a forward. Tokens that are not trained on get the value 0, so that no NaN reaches a
    gradient."""
    keep = tokens.trained.keep
    return TokenFacts(
        logprobs=keep(logprobs),
        old=keep(old),
        reference=None if reference is None else keep(reference),
        entropy=keep(entropy),
        extra={name: keep(values) for name, values in extra.items()},
        advantages=keep(tokens.advantages),
        off_policy=tokens.trained.mask & ~tokens.on_policy.mask,
        guests=tokens.trained.mask & tokens.guests,
        with_images=tokens.trained.mask & tokens.with_images,
        layout=tokens.trained,
        settings=settings,
    )


def measured_of(rule: TokenRule, facts: TokenFacts) -> Mapping[str, Measured]:
    """The result of `measure` for one forward. Raises ConfigError if the call fails, or for a
    value that cannot be combined over forwards and ranks."""
    found = _called(rule, "measure", facts)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{_KEY}: measure must return a dictionary of Measured; got {type(found).__name__}")
    for name, one in found.items():
        if not isinstance(one, Measured) or one.reduce not in _REDUCED or _shape(one.value) != ():
            want = f"Measured of a scalar tensor, with one of {', '.join(_REDUCED)}"
            raise ConfigError(f"{_KEY}: {name!r} of measure has no total; got {one!r}; give {want}")
    return found


def _called(rule: TokenRule, method: str, *arguments: object) -> Any:
    """Call a method. Raises ConfigError if it fails. A MarsError and torch's OutOfMemoryError are raised unchanged."""
    failure = f"{_KEY}: {method} of {type(rule).__name__} failed"
    with calling(failure, unchanged=(MarsError, torch.OutOfMemoryError)):
        return getattr(rule, method)(*arguments)


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else f"none, as {type(value).__name__}"


def totals_of(measured: Sequence[Mapping[str, Measured]], device: torch.device) -> dict[str, float]:
    """The numbers of `measure`, combined over an update's forwards on all ranks, in float64. A collective call.

    measured: the numbers of each forward of this rank, for at least one forward. Raises ConfigError on all ranks if the
    forwards differ in names or in how a number is reduced.
    """
    agreed_names(
        f"{_KEY}: measure", (tuple(sorted(f"{name} ({m.reduce})" for name, m in one.items())) for one in measured)
    )
    kinds = {name: one.reduce for name, one in sorted(measured[0].items())}
    found: dict[str, float] = {}
    for kind, (merge, reduce) in _REDUCED.items():
        names = [name for name in kinds if kinds[name] == kind]
        if names:
            rows = [torch.stack([one[name].value.to(device, torch.float64) for name in names]) for one in measured]
            total = rows[0]
            for row in rows[1:]:
                total = merge(total, row)
            dist.all_reduce(total, reduce)
            found |= dict(zip(names, total.tolist(), strict=True))
    return {name: found[name] for name in kinds}
