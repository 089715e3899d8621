"""The successor of a lost worker: the old process is ended, then a new one starts where there is room."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from mars import background
from mars.errors import WorkerError

_LOOK_S = 0.1
_ANSWER_S = 10.0
"""How long a node may take to end a process before it counts as lost."""
_MAX_STARTS = 3


class Ending(Protocol):
    def is_over(self, timeout_s: float = 0.0) -> bool | None:
        """True when the process is gone; False if its node is lost; None if the node has not answered after
        timeout_s."""
        ...


class Places(Protocol):
    """The methods of `WorkerGroup` that a successor calls. index: number of the worker in the group."""

    def node(self, index: int) -> str | None: ...

    def end(self, index: int) -> Ending | None: ...

    def has_room(self, index: int) -> bool: ...

    def start(self, index: int) -> None: ...

    def is_running(self, index: int) -> bool: ...


class Successor:
    """The successor of worker `index` of the group. Creating this object ends the old process.

    node: of the old process; None if it is not known.
    """

    def __init__(self, group: Places, index: int) -> None:
        self._group, self._index = group, index
        self.node = group.node(index)
        self._ending = group.end(index)
        self._stage: Literal["ending", "waiting for room", "starting"] = "ending"
        self._starts = 0
        self._is_node_lost: bool | None = None

    def is_node_lost(self) -> bool:
        """Whether the node of the old process counts as lost: it is gone, or did not end the process within 10 s."""
        if self._is_node_lost is None:
            self._is_node_lost = self._ending is not None and self._ending.is_over(_ANSWER_S) is not True
        return self._is_node_lost

    def is_running(self) -> bool:
        """Whether the new process runs. Takes the steps towards this that are possible now.

        Waits only in `has_room`, which in a joined cluster asks a new node whether its packages and files agree with
        the driver's (`NodeCheck.agrees`), and waits up to 60 s for the answer. Raises SetupError if they do not agree,
        and WorkerError if three starts have failed.
        """
        if self._stage == "ending" and (self._ending is None or self._ending.is_over() is not None):
            self._stage = "waiting for room"
        if self._stage == "waiting for room" and self._group.has_room(self._index):
            self._group.start(self._index)
            self._stage, self._starts = "starting", self._starts + 1
        if self._stage != "starting":
            return False
        try:
            return self._group.is_running(self._index)
        except WorkerError as error:
            if self._starts == _MAX_STARTS:
                raise WorkerError(f"{error}; given up after {_MAX_STARTS} starts") from error
            self._stage = "waiting for room"
            return False


def first_running(
    successors: Mapping[int, Successor], until: float, look: Callable[[], None] = lambda: None
) -> int | None:
    """The index of the first successor that runs; None if none runs at `until` (time.monotonic()).

    look: called while waiting. Raises the errors of `Successor.is_running` and of `look`.
    """
    while True:
        look()
        background.check()
        for index, successor in successors.items():
            if successor.is_running():
                return index
        if time.monotonic() >= until:
            return None
        time.sleep(_LOOK_S)
