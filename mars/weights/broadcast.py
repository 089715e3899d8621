"""Weights from rank 0 of the trainer to all engines at once, bucket by bucket, over NCCL (GPUs) or gloo (CPUs)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mars import faults
from mars.weights import plan
from mars.weights.group import SendGroup
from mars.weights.meeting import Meeting
from mars.weights.meeting_transfer import MeetingTransfer
from mars.weights.store import MemberStore
from mars.weights.transfer import Bucket


class BroadcastTransfer(MeetingTransfer):
    """A `WeightTransfer`.

    Memory of rank 0: the bucket that it gathers, its own shards of this bucket, and the previous bucket, joined to
    one tensor (a message), which is being sent. Memory of an engine: the message that it loads, the next message, and
    the tensors of earlier messages that it keeps (vLLM keeps a layer's tensors until the layer is complete). A bucket
    may be as large as the largest tensor.

    name: of this worker. device: "cuda" or "cpu". timeout_s: of a whole send.
    """

    def __init__(self, name: str, device: str, timeout_s: float, bucket_bytes: int) -> None:
        super().__init__(name)
        self._timeout_s, self.bucket_bytes = timeout_s, bucket_bytes
        self._device = torch.device(device, torch.cuda.current_device() if device == "cuda" else None)
        self._group: SendGroup | None = None

    def _send_to(self, meeting: Meeting, version: int, buckets: Sequence[Bucket], left: Iterator[Bucket]) -> None:
        self._send(self._join(meeting, place=0), version, buckets, left)

    def _send(self, group: SendGroup, version: int, buckets: Sequence[Bucket], left: Iterator[Bucket]) -> None:
        """Gather each bucket while the previous one is being sent. left: as for `_send_to`."""
        plan.announce(group.store, "plan", version, buckets)
        dtype = buckets[0].dtype
        message = torch.empty(max(bucket.num_values for bucket in buckets), dtype=dtype, device=self._device)
        for bucket in left:
            gathered = bucket.gather()
            group.wait()  # the message is free then
            plan.join(gathered.values(), out=message[: bucket.num_values])
            del gathered  # before the next bucket is gathered
            faults.point("weights.bucket_sent")
            group.start(message[: bucket.num_values])
        group.wait()
        # With NCCL, rank 0 may be done with a small message before an engine has read the plan.
        group.store.forget_later("plan")
        group.store.finish()

    def receive(self, payload: Meeting) -> Iterator[tuple[str, Tensor]]:
        """Calls `leave` on an error, or if the caller stops early: the other members would wait for this one."""
        try:
            group = self._join(payload, place=1 + payload.engines.index(self._name))
            coming = plan.announced(group.store, "plan")
            following = self._start(group, coming, 0)
            for number, shapes in enumerate(coming.buckets):
                group.wait()
                faults.point("weights.bucket_received")
                values = following
                if number + 1 < len(coming.buckets):
                    following = self._start(group, coming, number + 1)
                yield from plan.tensors(values, shapes)
            group.store.finish()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.leave()

    def _join(self, meeting: Meeting, place: int) -> SendGroup:
        """Join the group that the meeting names. If this worker is in that group already, the group is used again."""
        if self._group is not None and self._group.store.group == meeting.group:
            self._group.store.begin(meeting)
        else:
            self.leave()
            store = MemberStore(meeting, self._timeout_s)
            self._group = SendGroup(store, place, 1 + len(meeting.engines), self._device)
        self._group.connect()
        return self._group

    def _start(self, group: SendGroup, coming: plan.Plan, number: int) -> Tensor:
        """Start receiving a bucket, in a new tensor, because the engine may still hold tensors of earlier buckets."""
        values = torch.empty(plan.num_values(coming.buckets[number]), dtype=coming.dtype, device=self._device)
        group.start(values)
        return values
