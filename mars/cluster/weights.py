"""How weights reach engines on Ray workers: what each worker has for it, and what the driver has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray

from mars.weights.transfer import WeightTransfer

BuildTransfer = Callable[[str], WeightTransfer]
"""Builds the transfer of the worker of this name. Pickled and called on the worker."""


def build_transfer(name: str) -> WeightTransfer:
    """A `BuildTransfer`."""
    from mars.weights.object_store import ObjectStoreTransfer

    return ObjectStoreTransfer(ray.put, ray.get)


class WeightOffer(Protocol):
    """One version of the weights, for as many engines as want it: the payload of the driver's `WeightUpdate`."""

    def give(self, engines: Sequence[str], restarts: int) -> Any:
        """What these engines need to get the weights. Call `settle` when they have them, or have failed.

        engines: their names. restarts: how many engines were replaced so far.
        """
        ...

    def abort(self, reason: str) -> None:
        """One of the engines failed: end what waits for it."""
        ...

    def settle(self) -> None:
        """Wait until the trainer has done its part. Raises WorkerLost if one of its ranks was lost meanwhile."""
        ...


class StoredWeights:
    """A `WeightOffer` of weights in Ray's object store. reference: Ray's."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def give(self, engines: Sequence[str], restarts: int) -> Any:
        return self._reference

    def abort(self, reason: str) -> None:
        """Does nothing: engines do not wait for one another."""

    def settle(self) -> None:
        """Does nothing: the weights are in the store."""
