"""How weights reach engines on Ray workers: each worker's `WeightTransfer`, and the `WeightOffer`s of the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.exceptions import RayError

from mars.cluster.worker_group import WorkerGroup
from mars.config.run_sections import ClusterConfig
from mars.config.schema import RolloutConfig
from mars.errors import TransferError, WorkerError
from mars.types import WeightUpdate
from mars.weights.meeting import Meeting
from mars.weights.transfer import WeightTransfer

if TYPE_CHECKING:
    from mars.weights.store import DriverStore

logger = logging.getLogger(__name__)

BuildTransfer = Callable[[str], WeightTransfer]
"""Builds the transfer of the worker of this name. Pickled and called on the worker."""


def build_transfer(name: str, rollout: RolloutConfig, cluster: ClusterConfig) -> WeightTransfer:
    """A worker's transfer. `functools.partial` binds `rollout` and `cluster` to make a `BuildTransfer`."""
    # Half of the deadline of a call, so that workers that waited for a hanging one can still answer in time.
    timeout_s = cluster.call_timeout_s / 2
    match rollout.weight_transfer:
        case "object_store":
            from mars.weights.object_store import ObjectStoreTransfer

            return ObjectStoreTransfer(ray.put, ray.get)
        case "broadcast":
            from mars.weights.broadcast import BroadcastTransfer

            return BroadcastTransfer(name, cluster.device, timeout_s, rollout.weight_bucket_bytes)
        case "cuda_ipc":
            from mars.weights.cuda_ipc import CudaIpcMemory
            from mars.weights.ipc import IpcTransfer

            return IpcTransfer(name, CudaIpcMemory(), timeout_s, rollout.weight_bucket_bytes)


class WeightOffer(Protocol):
    """One version of the weights, for any number of engines: the payload of the driver's `WeightUpdate`."""

    def give(self, engines: Mapping[int, str], restarts: int) -> Any:
        """What these engines need to get the weights. Call `settle` when each engine has the weights or has failed.

        engines: number -> name. restarts: how many times an engine was lost so far.
        """
        ...

    def abort(self, reason: str) -> None:
        """Call this when an engine has failed: it ends what waits for this engine."""
        ...

    def look(self) -> None:
        """Call this repeatedly while engines load. If the trainer has failed, it ends the wait of the engines."""
        ...

    def settle(self) -> None:
        """Wait until the trainer has done its part. Raises WorkerLost if one of its ranks was lost meanwhile."""
        ...


def give_weights(
    group: WorkerGroup, engines: Sequence[int], weights: WeightUpdate, restarts: int
) -> dict[int, WorkerError | None]:
    """Give weights, whose payload is a `WeightOffer`, to these engines. Returns engine -> error, for those that failed.
    restarts: as for `WeightOffer.give`. Raises WorkerLost if a rank of the trainer was lost meanwhile."""
    offer: WeightOffer = weights.payload
    update = WeightUpdate(weights.version, offer.give({i: group.name(i) for i in engines}, restarts))
    loads = {engine: group.workers[engine].load_weights.remote(update) for engine in engines}
    outcomes = group.outcomes(loads, "load_weights", failed=offer.abort, meanwhile=offer.look)
    offer.settle()
    return {engine: outcome for engine, outcome in outcomes.items() if isinstance(outcome, WorkerError)}


class StoredWeights:
    """A `WeightOffer` of weights in Ray's object store, on the node of rank 0.

    reference: Ray's. check_ranks: raises WorkerLost if a rank of the trainer was lost.
    """

    def __init__(self, reference: Any, check_ranks: Callable[[], None] = lambda: None) -> None:
        self._reference, self._check_ranks = reference, check_ranks
        self._has_failed = False

    def give(self, engines: Mapping[int, str], restarts: int) -> Any:
        return self._reference

    def abort(self, reason: str) -> None:
        """Only notes the failure: engines do not wait for one another, so there is nothing to end."""
        self._has_failed = True

    def look(self) -> None:
        """Does nothing: the weights are in the store."""

    def settle(self) -> None:
        """If an engine has failed, check the ranks: the weights may be lost with the node that had them."""
        if self._has_failed:
            self._has_failed = False
            self._check_ranks()


class SentWeights:
    """A `WeightOffer` of weights that the trainer's ranks send when engines ask for them."""

    def __init__(self, sender: RankSender, version: int) -> None:
        self._sender, self._version = sender, version

    def give(self, engines: Mapping[int, str], restarts: int) -> Meeting:
        return self._sender.start(self._version, engines, restarts)

    def abort(self, reason: str) -> None:
        self._sender.abort(reason)

    def look(self) -> None:
        self._sender.look()

    def settle(self) -> None:
        self._sender.finish()


class RankSender:
    """Makes the trainer's ranks send weights to engines, one send at a time.

    results: waits for calls of the ranks; (references, name of the call, deadline in seconds) -> results. Raises
        WorkerLost if a rank was lost.
    timeout_s: deadline of a send. one_each: whether rank i sends to engine i; otherwise rank 0 sends to all engines.
    """

    def __init__(
        self,
        ranks: WorkerGroup,
        results: Callable[[Sequence[Any], str, float], list[Any]],
        timeout_s: float,
        one_each: bool,
    ) -> None:
        self._ranks, self._results, self._timeout_s, self._one_each = ranks, results, timeout_s, one_each
        self._store: DriverStore | None = None
        self._version = self._num_sends = self._num_groups = 0
        self.forget()

    def forget(self) -> None:
        """Forget the calls and the members of earlier sends, so that the next send uses a new `Meeting.group`.

        Called when the ranks are started again.
        """
        self._members: object = None
        self._sending: list[Any] = []

    def offer(self) -> WeightUpdate:
        """The ranks' current weights, under a new version."""
        self._version += 1
        return WeightUpdate(self._version, SentWeights(self, self._version))

    def start(self, version: int, engines: Mapping[int, str], restarts: int) -> Meeting:
        """Start a send.

        `Meeting.group` is that of the last send if that send did not fail, the engines are the same, and no engine was
        replaced since; else it is a new one.
        """
        from mars.weights.store import DriverStore

        if self._store is None:
            self._store = DriverStore(ray.util.get_node_ip_address())
        names = tuple(engines.values())
        if self._members != (names, restarts):
            self._members, self._num_groups = (names, restarts), self._num_groups + 1
        self._num_sends += 1
        self._meeting = Meeting(
            self._store.host,
            self._store.port,
            f"weights-{self._num_groups}",
            tuple(map(self._ranks.name, engines if self._one_each else (0,))),
            names,
            self._num_sends,
            version,
        )
        self._end = time.monotonic() + self._timeout_s
        self._sending = [rank.send_weights.remote(self._meeting) for rank in self._ranks.workers]
        return self._meeting

    def abort(self, reason: str) -> None:
        """End the send for all members, because an engine has failed."""
        if self._members is not None and self._store is not None:
            self._members = None
            self._store.abort(self._meeting, reason)

    def look(self) -> None:
        """If a rank has failed or died, end the send, so that the engines stop waiting."""
        ended, _ = ray.wait(self._sending, num_returns=len(self._sending), timeout=0)
        for reference in ended:
            try:
                ray.get(reference)
            except RayError as error:  # `finish` raises it
                self.abort(str(error).partition("\n")[0])

    def finish(self) -> None:
        """Wait until the ranks have sent. Raises WorkerLost if one was lost.

        A send that failed because of an engine is only logged.
        """
        sending, self._sending = self._sending, []
        try:
            self._results(sending, "send_weights", max(self._end - time.monotonic(), 1.0))
        except TransferError as error:
            self._members = None
            logger.warning("%s", error)
