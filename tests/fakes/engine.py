"""A scripted engine that records its calls. For tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mars.rollout.engine import FinishedSample
from mars.rollout.scripted import Script, ScriptedEngine
from mars.types import RolloutRequest, WeightUpdate


class RecordingEngine(ScriptedEngine):
    """requests: those of every `generate`, in order. prefetched: those of the last `prefetch`. updates: the weights."""

    def __init__(self, script: Script, eos_ids: Sequence[int]) -> None:
        super().__init__(script, eos_ids)
        self.requests: list[RolloutRequest] = []
        self.prefetched: list[RolloutRequest] = []
        self.updates: list[WeightUpdate] = []

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample]]:
        self.requests.extend(requests)
        yield from super().generate(requests)

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self.prefetched = list(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        self.updates.append(update)
