"""Engines that are lost and not back yet: how long a call waits for them, and when other engines take over their work.

process lost, node fine  another process takes the engine's place; a call waits for it
node lost                a call waits for `cluster.replace_timeout_s`, then does without all engines of the node
room again               the engine is built while steps go on, and is back when weights are loaded the next time
build fails              on the new node: after at most `MAX_TRIES` starts, no further start while other engines work
no engine left           a call waits for any of them for `cluster.start_timeout_s`, then the run ends
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mars.cluster.successor import Successor
from mars.rollout.engine import FinishedSample, UnreadableRequest
from mars.types import RolloutRequest

MAX_TRIES = 3
"""How often an engine that was left out is started while steps go on, before it is left alone."""


class AbsentEngines:
    """The successors of absent engines, by the engines' numbers.

    replace_timeout_s: how long a call waits for an engine whose node is lost, counted from when the first
        engine on that node was lost.
    last_wait_s: how long a call waits for an engine whose node is fine, and for any engine if none is left.
    """

    def __init__(self, num_engines: int, replace_timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._num_engines, self._replace_timeout_s, self._now = num_engines, replace_timeout_s, now
        self.last_wait_s = replace_timeout_s
        self._successors: dict[int, Successor] = {}
        self._lost_nodes: dict[str, float] = {}  # node -> when its first engine was lost
        self._noted: set[int] = set()
        self._tries: Counter[int] = Counter()
        self._left_alone: set[int] = set()

    def __contains__(self, engine: object) -> bool:
        return engine in self._successors

    def __len__(self) -> int:
        return len(self._successors)

    def to_take_in(self) -> list[tuple[int, Successor]]:
        """The absent engines that are to be started again while steps go on."""
        return [(engine, each) for engine, each in self._successors.items() if engine not in self._left_alone]

    def others(self) -> list[int]:
        """The engines that work."""
        return [engine for engine in range(self._num_engines) if engine not in self._successors]

    def add(self, engine: int, successor: Successor) -> Successor:
        self._successors[engine] = successor
        self._noted.discard(engine)
        return successor

    def node(self, engine: int) -> str | None:
        """The node of the engine's old process; None if unknown."""
        return self._successors[engine].node

    def note(self, engine: int) -> bool:
        """Note the loss of an engine. Returns whether it had not been noted yet."""
        is_new = engine not in self._noted
        self._noted.add(engine)
        return is_new

    def has_failed(self, engine: int) -> bool:
        """Count a start that has failed while steps went on. Returns whether to start the engine once more."""
        self._tries[engine] += 1
        return self._tries[engine] < MAX_TRIES

    def leave_alone(self, engine: int) -> None:
        self._left_alone.add(engine)

    def remove(self, engine: int) -> None:
        """Note that the engine is back."""
        del self._successors[engine], self._tries[engine]
        self._noted.discard(engine)
        self._left_alone.discard(engine)
        nodes = {successor.node for successor in self._successors.values()}
        self._lost_nodes = {node: since for node, since in self._lost_nodes.items() if node in nodes}

    def is_new_loss(self, engine: int) -> bool:
        """False if the loss of the engine's node is noted already. If its node is newly lost, notes the time."""
        node = self._lost_node(engine)
        if node is None:
            return True
        is_new = node not in self._lost_nodes
        self._lost_nodes.setdefault(node, self._now())
        return is_new

    def wait_for(self, engine: int) -> tuple[float, dict[int, Successor]]:
        """The time (of the clock `now`) until which to wait at most for this absent engine, and the engines whose
        return ends the wait earlier: this one, or any absent one if no engine works. Call `is_new_loss` first."""
        if not self.others():
            return self._now() + self.last_wait_s, dict(self._successors)
        node = self._lost_node(engine)
        until = self._now() + self.last_wait_s if node is None else self._lost_nodes[node] + self._replace_timeout_s
        return until, {engine: self._successors[engine]}

    def _lost_node(self, engine: int) -> str | None:
        """The node with which the engine was lost, or None. A node that is known to be lost is not asked again, because
        it is slow to answer."""
        successor = self._successors[engine]
        return successor.node if successor.node in self._lost_nodes or successor.is_node_lost() else None


def place(item: FinishedSample | UnreadableRequest) -> tuple[int, int | None]:
    """(number of its request, number of the sample). The second is None if the request cannot be read."""
    return item.request, item.index if isinstance(item, FinishedSample) else None


def unfinished(
    requests: Sequence[RolloutRequest], some: Iterable[int], given_out: Iterable[tuple[int, int | None]]
) -> list[int]:
    """The numbers of the requests that still lack samples, ascending. Unreadable requests are not among them.

    some: numbers of the requests to look at. given_out: what `place` returns for each sample and each unreadable
    request that has come.
    """
    given_out = set(given_out)
    numbers = Counter(request for request, sample in given_out if sample is not None)
    return [i for i in sorted(some) if numbers[i] < requests[i].num_samples and (i, None) not in given_out]
