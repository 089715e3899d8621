"""Weights from rank 0 of the trainer to all engines at once, bucket by bucket, over NCCL (GPUs) or gloo (CPUs)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mars import faults
from mars.errors import TransferError
from mars.weights.group import SendGroup
from mars.weights.meeting import Meeting
from mars.weights.store import MemberStore
from mars.weights.transfer import Bucket, gather_all

# name -> shape of the tensors of one bucket
_Shapes = Mapping[str, Sequence[int]]


class BroadcastTransfer:
    """A `WeightTransfer`. All ranks call `meet` before each `send`.

    In memory, rank 0 has the shards of one bucket, and the bucket before joined into one message. An engine has two
    messages, the one that it loads and the next one, and whatever it keeps of earlier ones: vLLM keeps a layer's
    tensors until the layer is complete.

    name: of this worker. device: "cuda" or "cpu". timeout_s: of a whole send.
    """

    def __init__(self, name: str, device: str, timeout_s: float, bucket_bytes: int) -> None:
        self._name, self._timeout_s, self.bucket_bytes = name, timeout_s, bucket_bytes
        self._device = torch.device(device, torch.cuda.current_device() if device == "cuda" else None)
        self._meeting: Meeting | None = None
        self._group: SendGroup | None = None
        self._plan: str | None = None

    def meet(self, meeting: Meeting) -> None:
        """Where the next `send` goes."""
        self._meeting = meeting

    def send(self, version: int, buckets: Sequence[Bucket]) -> Meeting | None:
        meeting, self._meeting = self._meeting, None
        if meeting is None or meeting.version != version:
            raise RuntimeError(f"nobody waits for version {version} of the weights, but for {meeting}")
        left = iter(buckets)
        if self._name not in meeting.senders:
            gather_all(left)
            return None
        try:
            self._send(self._join(meeting, place=0), version, buckets, left)
        except TransferError:
            self.leave()
            gather_all(left)  # with the other ranks, which would wait for this one
            raise
        except BaseException:
            self.leave()
            raise
        return meeting

    def _send(self, group: SendGroup, version: int, buckets: Sequence[Bucket], left: Iterator[Bucket]) -> None:
        """left: iterates over `buckets`. Gathers each bucket while the one before is on its way."""
        plan = {
            "version": version,
            "dtype": str(buckets[0].dtype).removeprefix("torch."),
            "buckets": [dict(bucket.shapes) for bucket in buckets],
        }
        group.store.set("plan", json.dumps(plan))
        largest = max(bucket.num_values for bucket in buckets)
        message = torch.empty(largest, dtype=buckets[0].dtype, device=self._device)
        for bucket in left:
            pieces = [piece.reshape(-1) for of_tensor in bucket.gather().values() for piece in of_tensor]
            group.wait()  # the message is free then
            torch.cat(pieces, out=message[: bucket.num_values])
            faults.point("weights.bucket_sent")
            group.start(message[: bucket.num_values])
        group.wait()
        group.store.forget("plan")
        group.store.finish()

    def receive(self, payload: Meeting) -> Iterator[tuple[str, Tensor]]:
        """Calls `leave` on an error, or if the caller stops early.

        Otherwise the other members would go on waiting for this one.
        """
        try:
            group = self._join(payload, place=1 + payload.engines.index(self._name))
            plan = json.loads(group.store.get("plan"))
            if plan["version"] != payload.version:
                raise group.store.failed(
                    f"rank 0 sends version {plan['version']}, and the engine waits for {payload.version}"
                )
            following = [*plan["buckets"][1:], None]
            values = self._start(group, plan["buckets"][0], plan["dtype"])
            for shapes, next_shapes in zip(plan["buckets"], following, strict=True):
                group.wait()
                faults.point("weights.bucket_received")
                arrived = values
                if next_shapes is not None:
                    values = self._start(group, next_shapes, plan["dtype"])
                yield from _tensors(arrived, shapes)
            group.store.finish()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.leave()

    def _join(self, meeting: Meeting, place: int) -> SendGroup:
        """The group of the meeting: that of the last one if it has the same name."""
        if self._group is not None and self._group.store.group == meeting.group:
            self._group.store.begin(meeting)
        else:
            self.leave()
            store = MemberStore(meeting, self._timeout_s)
            self._group = SendGroup(store, place, 1 + len(meeting.engines), self._device)
        self._group.connect()
        return self._group

    def _start(self, group: SendGroup, shapes: _Shapes, dtype: str) -> Tensor:
        """Start receiving a bucket. A new tensor for each: the engine may still hold tensors of earlier ones."""
        values = torch.empty(sum(map(math.prod, shapes.values())), dtype=getattr(torch, dtype), device=self._device)
        group.start(values)
        return values


def _tensors(values: Tensor, shapes: _Shapes) -> Iterator[tuple[str, Tensor]]:
    parts = values.split([math.prod(shape) for shape in shapes.values()])
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        yield name, part.view(tuple(shape))
