"""A token rule's part in an objective: what it is given of a forward, and the check of what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mars.actor.targets import TokenTargets
from mars.algorithms.token_rule import Measured, TokenFacts, TokenRule, TokenTerms

_KEY = "recipe.tokens"
_REDUCED = {
    "sum": (torch.add, dist.ReduceOp.SUM),
    "min": (torch.minimum, dist.ReduceOp.MIN),
    "max": (torch.maximum, dist.ReduceOp.MAX),
}


@dataclass(frozen=True)
class RuleInputs:
    """What a rule uses of one forward besides the objective's own tensors.

    extra: name of a pass -> its log-probs, [T]. totals: of the update. settings: the step's scheduled values.
    """

    rule: TokenRule
    extra: Mapping[str, Tensor]
    totals: Mapping[str, float]
    settings: Mapping[str, float]

    def terms(
        self, logprobs: Tensor, old: Tensor, reference: Tensor | None, entropy: Tensor, tokens: TokenTargets
    ) -> TokenTerms:
        """The rule's terms. tokens: those that are trained on. Raises ValueError for a term that is not [T]."""
        facts = facts_of(logprobs, old, reference, entropy.detach(), self.extra, tokens, self.settings)
        terms = self.rule.apply(facts, self.totals)
        for name in ("advantages", "pg_weights", "extra_loss"):
            term = getattr(terms, name)
            if term is not None and term.shape != logprobs.shape:
                raise ValueError(f"{_KEY}: {name} has shape {tuple(term.shape)}; want {tuple(logprobs.shape)}")
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
    """Values of tokens that are not trained on become 0, so that no NaN of theirs can reach a gradient."""
    keep = tokens.trained.keep
    return TokenFacts(
        logprobs=keep(logprobs),
        old=keep(old),
        reference=None if reference is None else keep(reference),
        entropy=keep(entropy),
        extra={name: keep(values) for name, values in extra.items()},
        advantages=keep(tokens.advantages),
        layout=tokens.trained,
        settings=settings,
    )


def totals_of(measured: Sequence[Mapping[str, Measured]], device: torch.device) -> dict[str, float]:
    """The totals of an update over this rank's forwards and all ranks, in float64. A collective call.

    measured: of each forward of this rank; a rank has one at least. Raises ValueError if the forwards differ in names.
    """
    first, *others = measured
    kinds = {name: one.reduce for name, one in sorted(first.items())}
    if any({name: one.reduce for name, one in sorted(other.items())} != kinds for other in others):
        raise ValueError(f"{_KEY}: measure gave other names than {list(kinds)} in a later call of the same update")
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
