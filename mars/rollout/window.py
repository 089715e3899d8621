"""The window: an engine takes the requests of a call one by one, and has a limited number of samples at once.

    driver ── part 3 ──> waits at the worker ── part 2 ──> Feed ── request by request ──> Intake ── window ──> engine

Without a window, an engine with a thousand prompts would hold the images of all of them in memory. The driver sends
the requests of a call in parts (`Part`), each while the engine generates for the parts before it.

If the engine has room for the next request but the request has not come yet, it waits. So its batches and its cache
hits do not depend on when requests arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mars.types import RolloutRequest


def samples_in_window(max_num_seqs: int) -> int:
    """How many samples an engine may have taken and not finished: twice the number that it can generate at once.

    While it generates one half of them, it reads the images of the other half. So it always has `max_num_seqs` samples
    to generate, until there are no more requests.
    """
    return 2 * max_num_seqs


@dataclass(frozen=True)
class Part:
    """Requests of one call that are sent together.

    message_gap_s: least number of seconds between two messages with samples from the engine.
    """

    requests: Sequence[RolloutRequest]
    is_first: bool = True
    is_last: bool = True
    message_gap_s: float = 0.0


def in_parts(requests: Sequence[RolloutRequest], window: int, message_gap_s: float = 0.0) -> list[Part]:
    """The requests in parts of at most half a window of samples each, in order; one part if all fit into the window.

    A request with more samples than half a window is a part of its own. Without requests there is one empty part.

    Example: five requests of 4 samples, window 16 -> parts of 2, 2 and 1 requests.
    """
    if sum(request.num_samples for request in requests) <= window:
        return [Part(requests, message_gap_s=message_gap_s)]
    starts, samples = [], window
    for i, request in enumerate(requests):
        samples += request.num_samples
        if samples > window // 2:
            starts.append(i)
            samples = request.num_samples
    ends = [*starts[1:], len(requests)]
    return [
        Part(requests[start:end], start == 0, end == len(requests), message_gap_s)
        for start, end in zip(starts, ends, strict=True)
    ]


def first_window(requests: Iterable[RolloutRequest], window: int) -> list[RolloutRequest]:
    """The first requests whose samples together fit into `window`."""
    found, samples = [], 0
    for request in requests:
        samples += request.num_samples
        if samples > window:
            break
        found.append(request)
    return found


class Feed:
    """The requests of one call of an engine, which come in parts. Yields None while the next part has not come."""

    def __init__(self) -> None:
        self._requests: deque[RolloutRequest] = deque()
        self._is_complete = False
        self.is_waited_for = False

    def add(self, part: Part) -> None:
        self._requests.extend(part.requests)
        self._is_complete, self.is_waited_for = part.is_last, False

    def __iter__(self) -> Iterator[RolloutRequest | None]:
        return self

    def __next__(self) -> RolloutRequest | None:
        if self._requests:
            return self._requests.popleft()
        if self._is_complete:
            raise StopIteration
        self.is_waited_for = True
        return None


class Intake:
    """Takes the next request of a call as long as its samples and the unfinished ones fit into the window.

    requests: may yield None (`RolloutEngine.generate`). size: a request's number of samples. If fewer samples than half
    the window are unfinished, the next request is taken whatever its size, so that the engine has enough to do.

    unfinished: unfinished samples of the requests taken so far. The caller subtracts the samples that have ended.
    is_over: whether all requests of the call are taken.
    """

    def __init__(
        self, requests: Iterable[RolloutRequest | None], window: int, size: Callable[[RolloutRequest], int]
    ) -> None:
        self._requests, self._window, self._size = iter(requests), window, size
        self._next: RolloutRequest | None = None
        self._num_taken = 0
        self.unfinished = 0
        self.is_over = False

    def take(self) -> list[tuple[int, RolloutRequest]]:
        """(number in the call, request) of each request that there is room for."""
        taken = []
        while self.unfinished < self._window and (request := self._look()) is not None:
            if 2 * self.unfinished >= self._window < self.unfinished + self._size(request):
                break
            self._next = None
            self.unfinished += self._size(request)
            taken.append((self._num_taken, request))
            self._num_taken += 1
        return taken

    @property
    def is_waiting(self) -> bool:
        """Whether there is room, but the next request has not come."""
        return self.unfinished < self._window and self._next is None and not self.is_over

    def _look(self) -> RolloutRequest | None:
        if self._next is None and not self.is_over:
            try:
                self._next = next(self._requests)
            except StopIteration:
                self.is_over = True
        return self._next
