"""The interface of everything that generates responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mars.types import Completion, RolloutRequest, WeightUpdate


class RolloutEngine(Protocol):
    """Generates responses with a versioned policy."""

    def generate(self, requests: Sequence[RolloutRequest]) -> list[list[Completion]]:
        """Completions in request order, exactly `num_samples` for each request, or an exception."""
        ...

    def load_weights(self, update: WeightUpdate) -> None:
        """Make `update` the policy; every cache that depends on the weights is emptied."""
        ...

    def close(self) -> None:
        """End every process and free all memory this engine holds."""
        ...
