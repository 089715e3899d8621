"""Weights from rank 0 of the trainer to all engines at once, bucket by bucket, over NCCL (GPUs) or gloo (CPUs)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mars import faults
from mars.errors import TransferError
from mars.weights.group import SendGroup, Shapes, open_store
from mars.weights.meeting import Meeting
from mars.weights.transfer import Bucket


class BroadcastTransfer:
    """A `WeightTransfer`. Rank 0 calls `open` once, and all ranks call `meet` before each `send`.

    In memory, rank 0 has the full tensors of one bucket at a time, and a copy of them joined into one message. An
    engine has the current message, and whatever it keeps of earlier ones: vLLM keeps a layer's tensors until the layer
    is complete.

    name: of this engine; a rank needs none. device: "cuda" or "cpu". timeout_s: of a whole send.
    """

    def __init__(self, name: str, device: str, timeout_s: float, bucket_bytes: int) -> None:
        self._name, self._timeout_s, self.bucket_bytes = name, timeout_s, bucket_bytes
        self._device = torch.device(device, torch.cuda.current_device() if device == "cuda" else None)
        self._store: Any = None
        self._meeting: Meeting | None = None
        self._group: SendGroup | None = None

    def open(self, host: str) -> int:
        """Open the store at which the engines meet rank 0, on an address of this machine. Returns its port."""
        self._store = open_store(host)
        return self._store.port

    def meet(self, meeting: Meeting) -> None:
        """Where the next `send` goes."""
        self._meeting = meeting

    def send(self, version: int, buckets: Sequence[Bucket]) -> Meeting | None:
        meeting, self._meeting = self._meeting, None
        if meeting is None or meeting.version != version:
            raise RuntimeError(f"nobody waits for version {version} of the weights, but for {meeting}")
        left = iter(buckets)
        if self._store is None:
            _gather_all(left)
            return None
        try:
            group = self._join(meeting, place=0)
            group.announce(version, buckets[0].dtype, [bucket.shapes for bucket in buckets])
            for bucket in left:
                tensors = bucket.gather()
                faults.point("weights.bucket_sent")
                group.broadcast(torch.cat([tensor.reshape(-1) for tensor in tensors.values()]))
            group.finish()
        except TransferError:
            self.leave()
            _gather_all(left)  # with the other ranks, which would wait for this one
            raise
        except BaseException:
            self.leave()
            raise
        return meeting

    def receive(self, payload: Meeting) -> Iterator[tuple[str, Tensor]]:
        """Calls `leave` on an error, or if the caller stops early.

        Otherwise the other members would go on waiting for this one.
        """
        try:
            group = self._join(payload, place=1 + payload.engines.index(self._name))
            dtype, buckets = group.announced()
            for shapes in buckets:
                faults.point("weights.bucket_received")
                # A new tensor for each bucket: the engine may still hold tensors of the one before.
                values = torch.empty(sum(map(math.prod, shapes.values())), dtype=dtype, device=self._device)
                group.broadcast(values)
                yield from _tensors(values, shapes)
            group.finish()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.leave()

    def _join(self, meeting: Meeting, place: int) -> SendGroup:
        """The group of the meeting: that of the last one if it has the same name."""
        if self._group is not None and self._group.name == meeting.group:
            self._group.begin(meeting)
        else:
            self.leave()
            self._group = SendGroup(meeting, place, self._device, self._timeout_s)
        self._group.connect()
        return self._group


def _gather_all(buckets: Iterator[Bucket]) -> None:
    for bucket in buckets:
        bucket.gather()


def _tensors(values: Tensor, shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    parts = values.split([math.prod(shape) for shape in shapes.values()])
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        yield name, part.view(tuple(shape))
