"""A scripted engine that records its calls. For tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mars.rollout.engine import FinishedSample, UnreadableRequest
from mars.rollout.scripted import Script, ScriptedEngine
from mars.types import RolloutRequest, View, WeightUpdate


class RecordingEngine(ScriptedEngine):
    """requests: those of every `generate`, in order. prefetched: those of the last `prefetch`. updates: the weights.

    unreadable: (prompt id, view) -> reason, set by a test; None for the view stands for the multi view.
    """

    def __init__(self, script: Script, eos_ids: Sequence[int]) -> None:
        super().__init__(script, eos_ids)
        self.requests: list[RolloutRequest] = []
        self.prefetched: list[RolloutRequest] = []
        self.updates: list[WeightUpdate] = []
        self.unreadable: dict[tuple[str, View], str] = {}

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        self.requests.extend(requests)
        for i, (request, samples) in enumerate(zip(requests, super().generate(requests), strict=True)):
            reason = self.unreadable.get((request.prompt_id, request.view))
            yield samples if reason is None else [UnreadableRequest(i, reason)]

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self.prefetched = list(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        super().load_weights(update)
        self.updates.append(update)
