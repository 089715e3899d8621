"""One number for each response of a batch, such as its KL to the reference model, without update and gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mars.actor.batch import ForwardBatch
from mars.actor.reading import PromptReader, agreed
from mars.actor.rule_passes import ForwardOf, Models, with_transform
from mars.actor.trainer import ResponseScores
from mars.algorithms.kl import KlEstimator, kl_estimate
from mars.algorithms.scoring import ScoringSpec, Span
from mars.algorithms.token_layout import TokenLayout
from mars.train_types import MicroBatch, TrainBatch


class ResponseScorer:
    """Scores batches on one rank. estimator: of the KL."""

    def __init__(
        self,
        models: Models,
        forward_of: ForwardOf,
        reader: PromptReader,
        estimator: KlEstimator,
        run_seed: int,
        rank: int,
        device: torch.device,
    ) -> None:
        self._models, self._forward_of, self._reader, self._estimator = models, forward_of, reader, estimator
        self._run_seed, self._rank, self._device = run_seed, rank, device

    @torch.no_grad()
    def score(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        """As `PolicyTrainer.score_responses`; the same values on every rank."""
        rows = [(p, k) for p, prompt in enumerate(batch.prompts) for k in range(len(prompt.responses))]
        if sorted(row for plan in batch.updates for row in plan.rows) != rows:
            raise ValueError("the plans of a batch to be scored must hold every row exactly once")
        shown = with_transform(batch, spec.transform, spec.strength, "all", (self._run_seed, batch.step, spec.name))
        prompts = self._reader.start(shown, batch.updates, self._rank)
        micros = [micro for plan in batch.updates for micro in plan.ranks[self._rank]]
        sums = torch.zeros(len(rows), dtype=torch.float64, device=self._device)
        place = {row: i for i, row in enumerate(rows)}
        for micro in micros:
            forward = self._forward_of(batch, micro, prompts)
            weighted = micro.rows[: len(micro.rows) - micro.num_fillers]
            layout = _counted(TokenLayout.packed(forward.lengths), batch, micro, spans)
            by_row = layout.sum_by_sequence(self._token_values(forward, spec))
            if spec.value == "mean":
                by_row = by_row / layout.lengths()  # 0 / 0 is NaN: no token counts
            sums[torch.tensor([place[row] for row in weighted], dtype=torch.long, device=self._device)] = by_row[
                : len(weighted)
            ]
        dist.all_reduce(sums)  # each rank filled only its own rows; the sum gathers them
        unreadable = agreed(prompts.unreadable(micros), self._device)
        sums[[i for row, i in place.items() if row[0] in unreadable]] = math.nan
        values = iter(sums.tolist())
        return ResponseScores(
            [tuple(next(values) for _ in prompt.responses) for prompt in batch.prompts],
            {batch.prompts[p].prompt_id: reason for p, reason in unreadable.items()},
        )

    def _token_values(self, forward: ForwardBatch, spec: ScoringSpec) -> Tensor:
        """One value for each response token: float64 [T]."""
        if spec.value != "kl":
            return self._models[spec.model](forward)[0].double()
        policy, reference = (self._models[name](forward)[0].double() for name in ("policy", "reference"))
        return kl_estimate(policy, reference, self._estimator)


def _counted(
    layout: TokenLayout, batch: TrainBatch, micro: MicroBatch, spans: Sequence[Sequence[Span]] | None
) -> TokenLayout:
    """The layout of a forward's responses with a mask of only the tokens in the spans."""
    if spans is None:
        return layout
    counted: list[bool] = []
    for p, k in micro.rows:
        start, stop = spans[p][k]
        counted += [start <= place < stop for place in range(len(batch.prompts[p].responses[k].token_ids))]
    mask = torch.tensor(counted, dtype=torch.bool, device=layout.mask.device)
    return TokenLayout(mask, layout.sequence_index, layout.num_sequences)
