"""The calls of a generator method of one worker, one after the other; the worker always has the next one already."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

_UNDER_WAY = 2


class CallQueue:
    """Ray's streams of the calls of one worker. A Ray actor answers its calls one by one, in their order.

    call: makes a call with one of `arguments`; returns its stream.
    """

    def __init__(self, call: Callable[[Any], Any], arguments: Iterable[Any]) -> None:
        self._call, self._arguments = call, iter(arguments)
        self._streams: deque[Any] = deque()
        self._fill()

    @property
    def stream(self) -> Any | None:
        """That of the first call that has not ended; None if all have."""
        return self._streams[0] if self._streams else None

    def ended(self) -> None:
        """The first stream has no more items."""
        self._streams.popleft()
        self._fill()

    def _fill(self) -> None:
        for argument in self._arguments:
            self._streams.append(self._call(argument))
            if len(self._streams) == _UNDER_WAY:
                break
