"""A scripted engine that records its calls. For tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        asked: list[RolloutRequest] = []

        def taken() -> Iterator[RolloutRequest | None]:
            for request in requests:
                if request is not None:
                    asked.append(request)
                    self.requests.append(request)
                yield request

        for samples in super().generate(taken()):
            reason = self.unreadable.get((asked[-1].prompt_id, asked[-1].view)) if samples else None
            yield samples if reason is None else [UnreadableRequest(len(asked) - 1, reason)]

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self.prefetched = list(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        super().load_weights(update)
        self.updates.append(update)
