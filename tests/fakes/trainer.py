"""A trainer without a model that records its calls. For tests of everything around a trainer."""

from __future__ import annotations

from mars.actor.objective import RowTarget, row_targets
from mars.types import TrainBatch, UpdateStats, WeightUpdate


class RecordingTrainer:
    """A `PolicyTrainer` whose weights are the number of its updates.

    batches: what `update` was called with. targets: for each of them the (prompt id, row) of every forward, in the
    order of updates, ranks and forwards. scored: what `kl_to_reference` was called with.
    kl_per_token: prompt id -> KL per token, set by a test (default 0); a response's KL is this times its tokens.
    saved: the paths of `save`.
    """

    def __init__(self) -> None:
        self.batches: list[TrainBatch] = []
        self.targets: list[list[tuple[str, RowTarget]]] = []
        self.scored: list[TrainBatch] = []
        self.kl_per_token: dict[str, float] = {}
        self.saved: list[str] = []
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
        return UpdateStats({"actor/pg_loss": loss, "fault/skipped_updates": 0.0}, old_logprob_seconds=0.0)

    def kl_to_reference(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        self.scored.append(batch)
        return [
            tuple(self.kl_per_token.get(prompt.prompt_id, 0.0) * len(r.token_ids) for r in prompt.responses)
            for prompt in batch.prompts
        ]

    def publish_weights(self) -> WeightUpdate:
        self._version += 1
        return WeightUpdate(self._version, {"updates": len(self.batches)})

    def save(self, path: str) -> None:
        self.saved.append(path)

    def close(self) -> None:
        """Does nothing: there is nothing to free."""
