"""What all transfers with a `Meeting` share: before each send, the driver says which ranks and engines take part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from mars.errors import TransferError
from mars.weights.meeting import Meeting
from mars.weights.transfer import Bucket, gather_all


class MeetingTransfer(ABC):
    """The sending half of a `WeightTransfer`. All ranks call `meet` before each `send`. name: of this worker."""

    _gathers_on_all_ranks = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._meeting: Meeting | None = None

    def meet(self, meeting: Meeting) -> None:
        """Set the meeting at which the next `send` takes place."""
        self._meeting = meeting

    def send(self, version: int, buckets: Sequence[Bucket]) -> Meeting | None:
        meeting, self._meeting = self._meeting, None
        if meeting is None or meeting.version != version:
            raise RuntimeError(f"nobody waits for version {version} of the weights, but for {meeting}")
        left = iter(buckets)
        if self._name not in meeting.senders:
            gather_all(left, self._gathers_on_all_ranks)
            return None
        try:
            self._send_to(meeting, version, buckets, left)
        except TransferError:
            self.leave()
            gather_all(left, self._gathers_on_all_ranks)  # with the other ranks, which would wait for this one
            raise
        except BaseException:
            self.leave()
            raise
        return meeting

    @abstractmethod
    def leave(self) -> None:
        """As `WeightTransfer.leave`."""

    @abstractmethod
    def _send_to(self, meeting: Meeting, version: int, buckets: Sequence[Bucket], left: Iterator[Bucket]) -> None:
        """Gather and send each bucket, as one of `meeting.senders`. Takes the buckets
        from `left`, an iterator over `buckets`, so that `send` can gather the remaining ones after a failure."""
