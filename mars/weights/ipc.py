"""Weights from each rank to the engine on the same GPU, bucket by bucket, through memory that both processes see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from mars import faults
from mars.weights import plan
from mars.weights.meeting import Meeting
from mars.weights.meeting_transfer import MeetingTransfer
from mars.weights.store import MemberStore
from mars.weights.transfer import Bucket


class SharedBytes(Protocol):
    """Memory of one process that another process can open."""

    def new(self, num_bytes: int) -> tuple[Tensor, Any]:
        """New memory as a uint8 tensor, and a handle for `open` in the other process. The handle can be written as
        JSON."""
        ...

    def open(self, handle: Any) -> Tensor:
        """The memory that the handle stands for, as a tensor. It stays open as long as this tensor exists."""
        ...

    def settle(self) -> None:
        """Wait until all reads and writes of this memory that this process has started are done."""
        ...


class IpcTransfer(MeetingTransfer):
    """A `WeightTransfer` between ranks and engines on the same GPUs.

    All ranks gather each bucket. Rank i (`Meeting.senders`) writes it to memory that engine i (`Meeting.engines`)
    reads. It writes the next bucket there when the engine has copied this one. Memory of a rank: the bucket that it
    gathers, its own shards of this bucket, and the previous bucket in the shared memory. Memory of an engine: a copy
    of one bucket, and the tensors of earlier buckets that it keeps. A bucket may be as large as the largest tensor.

    name: of this worker. timeout_s: of a whole send.
    """

    _gathers_on_all_ranks = True

    def __init__(self, name: str, memory: SharedBytes, timeout_s: float, bucket_bytes: int) -> None:
        super().__init__(name)
        self._memory, self._timeout_s, self.bucket_bytes = memory, timeout_s, bucket_bytes
        self._store: MemberStore | None = None

    def _send_to(self, meeting: Meeting, version: int, buckets: Sequence[Bucket], left: Iterator[Bucket]) -> None:
        engine = meeting.engines[meeting.senders.index(self._name)]
        self._send(self._join(meeting), engine, version, buckets, left)

    def _send(
        self, store: MemberStore, engine: str, version: int, buckets: Sequence[Bucket], left: Iterator[Bucket]
    ) -> None:
        """left: as for `_send_to`."""
        plan.announce(store, f"{engine}/plan", version, buckets)
        dtype = buckets[0].dtype
        memory, handle = self._memory.new(max(bucket.num_values for bucket in buckets) * dtype.itemsize)
        store.set(f"{engine}/memory", json.dumps(handle))
        message = memory.view(dtype)
        for number, bucket in enumerate(left):
            gathered = bucket.gather(on_all_ranks=True)
            if number:
                store.take(f"{engine}/copied")
            plan.join(gathered.values(), out=message[: bucket.num_values])
            del gathered  # before the next bucket is gathered
            self._memory.settle()
            faults.point("weights.bucket_sent")
            store.check()
            store.set(f"{engine}/written")
        store.take(f"{engine}/copied")
        store.forget(f"{engine}/plan")
        store.finish()

    def receive(self, payload: Meeting) -> Iterator[tuple[str, Tensor]]:
        """Calls `leave` on an error, or if the caller stops early: the rank would wait for this engine."""
        try:
            store = self._join(payload)
            coming = plan.announced(store, f"{self._name}/plan")
            message = self._memory.open(json.loads(store.take(f"{self._name}/memory"))).view(coming.dtype)
            for shapes in coming.buckets:
                store.take(f"{self._name}/written")
                faults.point("weights.bucket_received")
                values = message[: plan.num_values(shapes)].clone()
                self._memory.settle()
                store.set(f"{self._name}/copied")
                yield from plan.tensors(values, shapes)
            store.finish()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.leave()

    def _join(self, meeting: Meeting) -> MemberStore:
        if self._store is not None and self._store.group == meeting.group:
            self._store.begin(meeting)
        else:
            self.leave()
            self._store = MemberStore(meeting, self._timeout_s)
        return self._store
