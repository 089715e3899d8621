"""`WeightTransfer`: the interface of everything that brings weights from the trainer's ranks to the engines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Gather(Protocol):
    """A collective call of all ranks."""

    def __call__(self, on_all_ranks: bool = False) -> Mapping[str, Sequence[Tensor]]:
        """Name -> the pieces of the full tensor. Joined in order, they have the values of the tensor.

        On rank 0; {} on the other ranks unless `on_all_ranks`.
        """
        ...


@dataclass(frozen=True)
class Bucket:
    """Some of the policy's weights, which are gathered and sent together.

    shapes: Hugging Face name -> shape of the full tensor. dtype: of all tensors.
    gather: gives the pieces of each tensor, in the order of `shapes`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    gather: Gather

    @property
    def num_values(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    def full(self) -> dict[str, Tensor]:
        """The full tensors on rank 0, {} on the others; a collective call of all ranks. If each rank has
        whole weights, the tensors may share memory with the model."""
        return {name: _joined(pieces, self.shapes[name]) for name, pieces in self.gather().items()}


def gather_all(buckets: Iterable[Bucket], on_all_ranks: bool = False) -> None:
    """Gather each bucket without sending it, because gathering is a collective call that the sending ranks make too."""
    for bucket in buckets:
        bucket.gather(on_all_ranks)


def _joined(pieces: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    import torch

    return (pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))).reshape(shape)


class WeightTransfer(Protocol):
    """Each rank of the trainer has one and calls `send`; each engine has one and calls `receive`."""

    bucket_bytes: int
    """The size of the buckets that `send` wants. A larger tensor is a bucket of its own."""

    def send(self, version: int, buckets: Sequence[Bucket]) -> Any:
        """Send all weights. A collective call of all ranks, which gather all buckets in order.

        Returns what `receive` needs in the engines (`WeightUpdate.payload`): on rank 0, or, if there is a `Meeting`, on
        the ranks that it names as senders. Returns None on the other ranks.
        Raises TransferError if the weights could not be sent because an engine failed.
        """
        ...

    def receive(self, payload: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of every weight, tied weights under each name. The tensors must not be changed.

        Raises TransferError if another process of the transfer failed. Then some weights were not yielded.
        """
        ...

    def leave(self) -> None:
        """End this process's part, even during a transfer. A process that waits for this one then gets an error.

        A later call of `send` or `receive` takes part again.
        """
        ...
