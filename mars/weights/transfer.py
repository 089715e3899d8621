"""`WeightTransfer`: the interface of everything that brings weights from the trainer's ranks to the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Bucket:
    """Some of the policy's weights, which are gathered and sent together.

    shapes: Hugging Face name -> shape of the full tensor. dtype: of all of them.
    gather: a collective call of all ranks. Returns the full tensors, in the order of `shapes`, on rank 0; nothing on
        the other ranks.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    gather: Callable[[], Mapping[str, Tensor]]


class WeightTransfer(Protocol):
    """Each rank of the trainer has one and calls `send`; each engine has one and calls `receive`."""

    bucket_bytes: int
    """The size of the buckets that `send` wants. A larger tensor is a bucket of its own."""

    def send(self, version: int, buckets: Sequence[Bucket]) -> Any:
        """Send all weights; a collective call of all ranks. All of them gather all buckets, in order.

        Returns what `receive` needs in the engines (`WeightUpdate.payload`) on rank 0, None on the other ranks.
        Raises TransferError if the weights could not be sent because an engine failed.
        """
        ...

    def receive(self, payload: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of every weight, tied ones under each name. The tensors must not be changed.

        Raises TransferError if another process of the transfer failed; what was yielded is then not all.
        """
        ...

    def leave(self) -> None:
        """End this process's part, even during a transfer: whoever then waits for this process sees it fail.

        A later call of `send` or `receive` takes part again.
        """
        ...
