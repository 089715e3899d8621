"""A trainer without a model that records its calls. For tests of everything around a trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from mars.actor.shard_report import ShardReport, write_report
from mars.actor.targets import RowTarget, row_targets
from mars.actor.trainer import ResponseScores, SkippedUpdate, UpdateStats
from mars.algorithms.scoring import KL_TO_REFERENCE, ScoringSpec, Span
from mars.output.digests import write_durably
from mars.train_types import TrainBatch, TrainPrompt
from mars.types import WeightUpdate


class RecordingTrainer:
    """A `PolicyTrainer` whose weights are the number of its updates.

    batches: what `update` was called with. targets: for each of them the (prompt id, row) of every forward, in the
    order of updates, ranks and forwards. scored: the batches of `score_responses`; specs, spans: what came with them.
    kl_per_token: prompt id -> KL per token, set by a test (default 0); a response's KL is this times its tokens.
    number: set by a test: (spec, prompt, number of its response, span) -> the number for specs that are no KL.
    unreadable: prompt id -> reason, set by a test: what `update` and `score_responses` could not read.
    skipped: set by a test: what the next `update` returns as skipped.
    saved: the paths of `save`. loaded: updates of the checkpoint that was loaded.
    """

    def __init__(self) -> None:
        self.batches: list[TrainBatch] = []
        self.targets: list[list[tuple[str, RowTarget]]] = []
        self.scored: list[TrainBatch] = []
        self.specs: list[ScoringSpec] = []
        self.spans: list[Sequence[Sequence[Span]] | None] = []
        self.number: Callable[[ScoringSpec, TrainPrompt, int, Span | None], float] = lambda *given: 0.0
        self.kl_per_token: dict[str, float] = {}
        self.unreadable: dict[str, str] = {}
        self.skipped: tuple[SkippedUpdate, ...] = ()
        self.saved: list[str] = []
        self.loaded = 0
        self._version = 0

    def update(self, batch: TrainBatch) -> UpdateStats:
        targets = [
            (batch.prompts[p].prompt_id, target)
            for plan in batch.updates
            for rank in plan.ranks
            for micro in rank
            for (p, _), target in zip(micro.rows, row_targets(batch, micro), strict=True)
        ]
        self.batches.append(batch)
        self.targets.append(targets)
        loss = -sum(target.weight * target.response.advantage for _, target in targets)
        metrics = {"actor/pg_loss": loss, "fault/skipped_updates": float(len(self.skipped))}
        return UpdateStats(metrics, 0.0, self._unreadable_in(batch), self.skipped, self._version)

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        self.scored.append(batch)
        self.specs.append(spec)
        self.spans.append(spans)
        unreadable = self._unreadable_in(batch)
        if spec != KL_TO_REFERENCE:
            return ResponseScores(
                [
                    tuple(
                        self.number(spec, prompt, k, spans and spans[p][k])
                        if prompt.prompt_id not in unreadable
                        else math.nan
                        for k in range(len(prompt.responses))
                    )
                    for p, prompt in enumerate(batch.prompts)
                ],
                unreadable,
            )
        per_token = {**self.kl_per_token, **dict.fromkeys(unreadable, math.nan)}
        values = [
            tuple(per_token.get(prompt.prompt_id, 0.0) * len(r.token_ids) for r in prompt.responses)
            for prompt in batch.prompts
        ]
        return ResponseScores(values, unreadable)

    def _unreadable_in(self, batch: TrainBatch) -> dict[str, str]:
        ids = dict.fromkeys(prompt.prompt_id for prompt in batch.prompts)
        return {name: self.unreadable[name] for name in ids if name in self.unreadable}

    def publish_weights(self) -> WeightUpdate:
        self._version += 1
        return WeightUpdate(self._version, {"updates": len(self.batches)})

    def save(self, path: str) -> None:
        self.saved.append(path)

    def start_checkpoint(self, folder: str) -> None:
        digest = write_durably(Path(folder) / "updates", [str(len(self.batches) + self.loaded).encode()])
        write_report(Path(folder), 0, ShardReport({"updates": digest}, None))

    def load_checkpoint(self, folder: str) -> None:
        self.loaded = int((Path(folder) / "updates").read_bytes())

    def offload(self) -> None:
        """Does nothing: there are no weights."""

    def onload(self) -> None:
        """Does nothing: there are no weights."""

    def close(self) -> None:
        """Does nothing: there is nothing to free."""
