"""`RayEngine`: rollout engines on Ray workers behind the `RolloutEngine` interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from mars.answers.record import PromptLength
from mars.background import Stopped
from mars.cluster.absent_engines import AbsentEngines, place, unfinished
from mars.cluster.engine_builds import FAILED_BUILD, EngineBuilds
from mars.cluster.engine_losses import EngineLosses
from mars.cluster.engine_worker import BuildEngine
from mars.cluster.gathering import message_gap_s
from mars.cluster.head import check_head
from mars.cluster.restarts import WorkerReport, no_report
from mars.cluster.successor import Successor, first_running
from mars.cluster.weights import BuildTransfer, give_weights
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import ImageAccess
from mars.errors import MarsError, SetupError, TransferError, WorkerError, WorkerLost
from mars.rollout.balance import Balancer
from mars.rollout.engine import EngineCounts, FinishedSample, UnreadableRequest
from mars.rollout.window import first_window, in_parts
from mars.types import RolloutRequest, WeightUpdate

logger = logging.getLogger(__name__)


class RayEngine:
    """Divides each call over the engines of the group by expected tokens. A prompt's requests go to the same engine.

    An engine gets its share in parts, the next part while it works on earlier ones (mars/rollout/window.py).
    window: of an engine, in samples.

    An engine that dies, hangs or raises is replaced. The new engine gets the current weights and repeats the requests
    of the lost one with the same seeds; samples that have arrived are not yielded again. Calls go on without an engine
    if its node is lost and no node has room within `replace_timeout_s`, or if it cannot be built on its new node
    (absent_engines.py).
    """

    def __init__(
        self,
        group: WorkerGroup,
        prompt_length: PromptLength,
        window: int,
        replace_timeout_s: float,
        report: WorkerReport = no_report,
    ) -> None:
        self._group, self._window = group, window
        self._absent = AbsentEngines(len(group.workers), replace_timeout_s)
        self._losses = EngineLosses(self._absent, group.name, report)
        self._builds = EngineBuilds(group)
        self._balancer = Balancer(prompt_length, len(group.workers))
        self._counts = EngineCounts()
        self._absences = 0
        self._weights: WeightUpdate | None = None
        self._is_asleep = False
        self._lost: dict[int, WorkerError] = {}  # absent engines that `wake` or the next call brings back

    def dump_stacks(self) -> None:
        self._group.dump_stacks()

    def start_build(
        self,
        build_engine: BuildEngine,
        build_transfer: BuildTransfer,
        images: ImageAccess,
        gpus: Callable[[], Sequence[Sequence[str]]] | None = None,
    ) -> list[Any]:
        """Start building every engine; returns one Ray reference per engine for `finish_build`.

        gpus: returns the GPUs of each engine, if they belong to trainer ranks; None if Ray gives each engine its own.
        It is called for each start, because Ray may have moved the ranks to another node.
        """
        return self._builds.start_all(build_engine, build_transfer, images, gpus)

    def finish_build(self, references: Sequence[Any], timeout_s: float) -> None:
        self._absent.last_wait_s = timeout_s
        self._builds.finish_all(references, timeout_s)

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        """Reads `requests` to the end before it sends any, because it divides them over the engines."""
        known: list[RolloutRequest] = []
        for request in requests:
            if request is None:
                yield []
            else:
                known.append(request)
        if not self._is_asleep:
            self._take_in(join=self._weights is None)
        self._absences += len(self._absent)
        left, given_out, counts = list(range(len(known))), set[tuple[int, int | None]](), list[EngineCounts]()
        while left:
            left = yield from self._generate(known, left, given_out, counts)
        self._counts = sum(counts, self._counts)  # a call that was given up adds nothing: only some engines sent counts
        self._losses.restarts.progress()

    def _generate(
        self,
        known: Sequence[RolloutRequest],
        left: Sequence[int],
        given_out: set[tuple[int, int | None]],
        counts: list[EngineCounts],
    ) -> Generator[list[FinishedSample | UnreadableRequest], None, list[int]]:
        """Yield the samples of the requests `left`, without those in `given_out`. Returns the unfinished requests of
        engines that are lost and do not come back. Adds the engines' counts to `counts`."""
        parts = self._balancer.split([known[i] for i in left], self._absent)
        shares = [[left[i] for i in part] for part in parts]
        gap_s = message_gap_s(len(shares))
        arguments = [
            [] if engine in self._absent else in_parts([known[i] for i in share], self._window, gap_s)
            for engine, share in enumerate(shares)
        ]
        without: list[int] = []

        def recover(engine: int, error: WorkerError) -> bool:
            is_back = self._replace(engine, error)
            if not is_back:
                without.append(engine)
                self._absences += 1
            return is_back

        with closing(self._group.streams("generate", arguments, recover)) as messages:
            for engine, message in messages:
                if isinstance(message, EngineCounts):
                    counts.append(message)
                    continue
                items = [replace(item, request=shares[engine][item.request]) for item in message]
                fresh = [item for item in items if place(item) not in given_out]
                given_out.update(map(place, fresh))
                if fresh:
                    yield fresh
        return unfinished(known, [i for engine in without for i in shares[engine]], given_out)

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        shares = enumerate(self._balancer.split(requests, self._absent))
        first = {i: first_window((requests[k] for k in share), self._window) for i, share in shares}
        workers = self._group.workers
        hints = {i: workers[i].prefetch.remote(hint) for i, hint in first.items() if i not in self._absent}
        self._replace_failed(self._group.outcomes(hints, "prefetch"))

    def sleep(self) -> None:
        """An engine that fails is replaced only at `wake`: a new one needs memory that the trainer uses until then."""
        self._is_asleep = True
        self._on_each("sleep")

    def wake(self) -> None:
        self._on_each("wake")
        self._is_asleep = False
        self._bring_back_lost()

    def counts(self) -> EngineCounts:
        return self._counts + EngineCounts(restarts=self._losses.restarts.total, absences=self._absences)

    def load_weights(self, update: WeightUpdate) -> None:
        """update: its payload is a `WeightOffer`.

        An engine that lacks weights only because another process failed is sent them once more. A lost engine that has
        been built again by now gets the weights too."""
        self._weights = update
        if not self._is_asleep:
            self._take_in(join=True)
        failed = self._load_on(self._absent.others())
        again = [engine for engine, error in failed.items() if isinstance(error, TransferError)]
        failed |= dict.fromkeys(again) | self._load_on(again)
        self._replace_failed(failed)

    def close(self) -> None:
        self._group.close()

    def _on_each(self, method: str) -> None:
        calls = {engine: getattr(self._group.workers[engine], method).remote() for engine in self._absent.others()}
        self._replace_failed(self._group.outcomes(calls, method))

    def _replace_failed(self, outcomes: Mapping[int, Any]) -> None:
        for engine, outcome in outcomes.items():
            if isinstance(outcome, WorkerError):
                self._replace(engine, outcome)

    def _load_on(self, engines: Sequence[int]) -> dict[int, WorkerError | None]:
        """Give these engines the current weights, if there are any. Returns the same as `give_weights`."""
        weights = self._weights
        return give_weights(self._group, engines, weights, self._losses.restarts.total) if weights and engines else {}

    def _replace(self, index: int, error: WorkerError) -> bool:
        """End a lost engine and bring it back. Returns whether it is back, as `_bring_back` does.

        While the engines sleep, it only ends the engine; `wake` brings it back. Raises WorkerLost if the engine's node
        is lost together with trainer ranks, because the ranks have to be replaced first.
        """
        successor = self._absent.add(index, Successor(self._group, index))
        if self._is_asleep or (self._builds.gpus is not None and successor.is_node_lost()):
            self._lost[index] = error
            if not self._is_asleep:
                raise WorkerLost(f"{error}; its node is lost, and with it the ranks on the same GPUs")
            return False
        try:
            return self._bring_back(index, error)
        except Stopped:  # the next call brings the engine back
            self._lost[index] = error
            raise

    def _bring_back_lost(self) -> None:
        for index, error in self._lost.items():
            self._losses.note(index, error)
        while self._lost:  # each call brings one back, which may be another one, or leaves this one out
            self._bring_back(*next(iter(self._lost.items())))

    def _bring_back(self, index: int, error: WorkerError) -> bool:
        """Wait until the successor of an absent engine runs, build the engine and give it the weights.

        If no engine is left, do this for the first absent engine that gets a place. Returns whether engine `index` is
        back: False if another one is, if the wait for a place is over, or if `_leave_alone` goes on without the engine.
        Raises as `_leave_alone`; WorkerError if too many in a row were lost, or no engine is left and none comes back.
        """
        lost = index
        while True:
            self._losses.note(lost, error)
            until, successors = self._absent.wait_for(lost)
            try:
                back = first_running(successors, until, check_head)
            except SetupError as refused:  # a node lacks something that the engine needs
                self._leave_alone(lost, refused)
                return False
            if back is None:
                self._losses.no_room(lost)
                self._lost.pop(lost, None)
                return False
            again = self._build(back)
            if again is None:
                self._is_back(back, str(self._lost.get(back, error)))
                return back == index
            if not isinstance(again, WorkerLost | TransferError):
                self._leave_alone(back, again)
                return False
            lost, error = back, again
            self._start_again(lost)

    def _build(self, index: int) -> MarsError | None:
        """Build an absent engine whose new process runs, and give it the weights. Returns the error, or None.

        Raises WorkerLost if a rank of the trainer was lost meanwhile.
        """
        try:
            self._builds.start(index)
            self._builds.wait(index)
        except FAILED_BUILD as error:
            return error
        return self._load_on([index]).get(index)

    def _is_back(self, index: int, reason: str) -> None:
        self._lost.pop(index, None)
        self._builds.forget(index)
        self._losses.is_back(index, reason)

    def _start_again(self, index: int) -> None:
        self._builds.forget(index)
        self._absent.add(index, Successor(self._group, index))

    def _leave_alone(self, index: int, error: MarsError) -> None:
        """Go on without an absent engine that could not be built.

        Raises `error` if no engine works, or the build failed on the engine's old node: other engines would fail too.
        """
        is_same = index in self._builds and self._absent.node(index) in (None, self._group.node(index))
        if is_same or not self._absent.others():
            raise error
        self._lost.pop(index, None)
        self._give_up(index, error)

    def _give_up(self, index: int, error: MarsError) -> None:
        where = f" on {self._group.node_name(index)}" if index in self._builds else ""
        self._start_again(index)
        self._losses.leave_alone(index, where, error)

    def _take_in(self, join: bool) -> None:
        """Make progress with the absent engines. join: whether engines that are built take part again.

        Leaves an engine alone after 3 starts (`absent_engines.MAX_TRIES`) that ended with a WorkerError, or another
        error. Waits for those of `_lost`, or for any engine if none works, at most as long as `wait_for` allows."""
        self._bring_back_lost()
        for index, successor in self._absent.to_take_in():
            try:
                if index not in self._builds and successor.is_running():
                    self._builds.start(index)
                if join and self._builds.is_done(index):
                    self._builds.wait(index)
                    self._is_back(index, "a node has room for it")
            except FAILED_BUILD as error:
                if isinstance(error, WorkerError) and self._absent.has_failed(index):
                    logger.warning("%s; it is started again", error)
                    self._start_again(index)
                else:
                    self._give_up(index, error)
        if not self._absent.others():  # the last engines were lost with a rank of the trainer, which runs again
            self._bring_back(0, WorkerError("cluster: no engine is left"))
