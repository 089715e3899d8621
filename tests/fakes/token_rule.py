"""A token rule with every kind of pass, total and term, for tests of the trainer."""

from __future__ import annotations

import torch

from mars.algorithms.token_rule import Measured, ScoringPass, TokenFacts, TokenTerms


class Contrast:
    """With m and n the log-probs for masked and noisy images, and g = old - m of each token:

    pg_weights: 1.5 where |g| is at least its mean over the update, else 0.5. advantages: times 1 + that mean.
    extra_loss: 0.3 (exp(n - logprob) - 1 - (n - logprob)) - 0.1 g / (largest |g|) logprob.
    """

    passes = (ScoringPass("masked", "masked"), ScoringPass("noisy", "noisy", images="one", gradient=True))
    measures = True

    def measure(self, facts: TokenFacts) -> dict[str, Measured]:
        gap = (facts.old - facts.extra["masked"]).abs()
        largest = torch.cat([gap[facts.layout.mask], gap.new_tensor([-torch.inf])]).max()
        return {
            "gap": Measured("sum", gap.sum()),
            "tokens": Measured("sum", facts.layout.mask.sum()),
            "largest": Measured("max", largest),
            "smallest": Measured("min", -largest),
        }

    def apply(self, facts: TokenFacts, totals) -> TokenTerms:
        assert totals["smallest"] == -totals["largest"]
        mean, gap = totals["gap"] / totals["tokens"], facts.old - facts.extra["masked"]
        difference = facts.extra["noisy"] - facts.logprobs
        k3 = difference.exp() - 1 - difference
        return TokenTerms(
            advantages=facts.advantages * (1 + mean),
            pg_weights=(gap.abs() >= mean).float() + 0.5,
            extra_loss=0.3 * k3 - 0.1 * gap / totals["largest"] * facts.logprobs,
            means={"gap": (gap.abs().sum(), facts.layout.mask.sum().float())},
        )
