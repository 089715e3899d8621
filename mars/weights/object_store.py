"""Weights through a store of objects, all at once: rank 0 puts them there, and every engine gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mars.weights.transfer import Bucket

if TYPE_CHECKING:
    from torch import Tensor


class ObjectStoreTransfer:
    """A `WeightTransfer` by copies in CPU memory. put, get: of the store, such as `ray.put` and `ray.get`."""

    # Large enough that latency does not matter, but smaller than most models, so that these have several buckets.
    bucket_bytes = 256 * 2**20

    def __init__(self, put: Callable[[Mapping[str, Tensor]], Any], get: Callable[[Any], Mapping[str, Tensor]]) -> None:
        self._put, self._get = put, get

    def send(self, version: int, buckets: Sequence[Bucket]) -> Any:
        """If trainer and engine are one process on the CPU, the sent tensors may share memory with the model."""
        full = {name: value.cpu() for bucket in buckets for name, value in bucket.full().items()}
        return self._put(full) if full else None

    def receive(self, payload: Any) -> Iterator[tuple[str, Tensor]]:
        return iter(self._get(payload).items())

    def leave(self) -> None:
        """Does nothing, because no process waits for this one."""


def in_memory() -> ObjectStoreTransfer:
    """The transfer for a trainer and an engine in one process."""
    return ObjectStoreTransfer(_itself, _itself)


def _itself(weights: Any) -> Any:
    return weights
