"""Groups of Ray worker processes: every call has a deadline, and every failure becomes a MarsError with a reason."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from mars import background, watchdog
from mars.cluster.call_queue import CallQueue, Deadlines, left_by_none
from mars.cluster.head import check_head
from mars.cluster.layout import WorkerResources
from mars.cluster.nodes import name_of_node
from mars.cluster.placement import Placement
from mars.cluster.ray_errors import WorkerDied, as_mars_errors
from mars.cluster.worker import Worker, cancel
from mars.cluster.worker_process import STACKS_SIGNAL, Ending, WorkerProcess, has_died, signal_process
from mars.errors import WorkerError

_CLOSE_TIMEOUT_S = 5.0
"""How long a worker's close() may take before the worker is killed."""
_LOST_TIMEOUT_S = 2.0
_LINGER_S = 0.004
"""After the first answer, a wait for N calls goes on for N times this long for more answers, at most for `_LOOK_S`."""
_LOOK_S = 0.5
"""How often a call looks whether the processes of its workers live."""


class WorkerGroup:
    """Workers of one class on the bundles of a placement.

    bundles: for each worker, the index of its bundle in the placement.
    environment: variables set in the workers in addition to those of their node.
    timeout_s: deadline of each call unless the call gives its own.
    """

    def __init__(
        self,
        worker_class: type[Worker],
        resources: Sequence[WorkerResources],
        placement: Placement,
        bundles: Sequence[int],
        environment: Mapping[str, str],
        log_dir: str,
        timeout_s: float,
    ) -> None:
        self._resources = resources
        self._placement, self._bundles = placement, bundles
        self._environment = dict(environment)
        self._timeout_s = timeout_s
        self.log_dir = log_dir
        self._remote_class = ray.remote(worker_class)
        self._processes: dict[int, Any] = {}
        self._known: dict[int, WorkerProcess] = {}
        self.workers = [self._start(i) for i in range(len(resources))]

    def _start(self, index: int) -> Any:
        worker = self._resources[index]
        handle = self._remote_class.options(
            num_cpus=worker.cpus,
            num_gpus=worker.gpus,
            runtime_env={"env_vars": self._environment} if self._environment else None,
            scheduling_strategy=self._placement.scheduling(self._bundles[index]),
        ).remote(worker.name, self.log_dir)
        self._processes[index] = handle.process.remote()
        self._known.pop(index, None)
        return handle

    def name(self, index: int) -> str:
        return self._resources[index].name

    def node(self, index: int) -> str | None:
        """Ray's id of the node of a worker, or of the last node of a lost one; None if it was never reported."""
        process = self._process(index)
        return None if process is None else process.node

    def node_name(self, index: int) -> str:
        """The name, for messages, of the node on which a worker is."""
        return name_of_node(self.node(index))

    def end(self, index: int) -> Ending | None:
        """End a worker, whether it is dead, hangs or works. None if its process is not known."""
        process = self._process(index)
        ray.kill(self.workers[index])
        return None if process is None else Ending(process)  # a stopped process does not see what Ray asks of it

    def has_room(self, index: int) -> bool:
        """As `Placement.has_room`, for the bundle of this worker. Ray notices the loss of a node only after some time;
        until then a lost node counts as alive."""
        return self._placement.has_room(self._bundles[index])

    def start(self, index: int) -> None:
        """Start a new process of a worker that has ended."""
        self.workers[index] = self._start(index)

    def is_running(self, index: int) -> bool:
        """Whether the process of a worker has started and answered. Raises WorkerLost if it died before its answer."""
        started, _ = ray.wait([self._processes[index]], timeout=0)
        if started:
            with self._named("start of a worker", self._timeout_s, [index]):
                ray.get(started)
        return bool(started)

    def is_done(self, call: Any) -> bool:
        return bool(ray.wait([call], timeout=0)[0])

    def results(
        self, references: Sequence[Any], call: str, timeout_s: float | None = None, first: int = 0
    ) -> list[Any]:
        """Wait for the results of `references`. Reference i belongs to worker first + i; after the last comes worker 0.

        call: name of the call in error messages.

        Raises a MarsError of a worker unchanged, WorkerLost if a worker died or missed the deadline, and WorkerError
        if it raised anything else. The first failure ends the wait.
        """
        deadline = self._timeout_s if timeout_s is None else timeout_s
        end = time.monotonic() + deadline
        place = {reference: i for i, reference in enumerate(references)}
        waiting = {reference: (first + i) % len(self.workers) for reference, i in place.items()}
        found: dict[int, Any] = {}
        while waiting:
            check_head()
            with self._named(call, deadline, list(waiting.values())):
                ready = self._ready(waiting, call, end)
                if not ready:
                    raise GetTimeoutError
            for reference in ready:
                index = waiting.pop(reference)
                with self._named(call, deadline, [index]):
                    found[place[reference]] = ray.get(reference)
                watchdog.beat(self.name(index))
        return [found[i] for i in range(len(place))]

    def _ready(
        self, waiting: Mapping[Any, int], call: str, end: float, meanwhile: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """The references that are ready, at least one; [] at `end` (time.monotonic()).

        waiting: reference -> index of its worker. Raises WorkerDied if the process of one of the workers has died on
        this machine, because Ray would notice it only seconds later.
        """
        references, linger_s = list(waiting), min(_LINGER_S * len(waiting), _LOOK_S)
        while True:
            left = max(end - time.monotonic(), 0)
            ready, others = ray.wait(references, timeout=min(left, _LOOK_S))
            if ready and others:
                ready, _ = ray.wait(references, timeout=linger_s, num_returns=len(references))
            if ready:
                return ready
            for index in dict.fromkeys(waiting.values()):
                if (process := self._process(index)) is not None and has_died(process):
                    reason = f"a worker process died (process {process.pid})"
                    raise WorkerDied(self._describe(call, reason, [index]), index)
            if not left:
                return []
            background.check()
            meanwhile()

    def _process(self, index: int) -> WorkerProcess | None:
        """The process of a worker. None until the worker has reported it, or if the worker died before that."""
        if index not in self._known:
            try:
                self._known[index] = ray.get(self._processes[index], timeout=0)
            except RayError:  # not yet, or it died before
                return None
        return self._known[index]

    def dump_stacks(self) -> None:
        """Make the workers on this machine write their stacks to <log_dir>/<name>.stacks.txt, even if they are busy."""
        for index in range(len(self.workers)):
            if (process := self._process(index)) is not None:
                signal_process(process, STACKS_SIGNAL)

    def lost(self) -> list[str]:
        """Names of the workers whose processes have died. Takes up to 2 s; a busy worker counts as alive."""
        asked = [worker.process.remote() for worker in self.workers]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_LOST_TIMEOUT_S)
        names = []
        for reference, worker in zip(asked, self._resources, strict=True):
            try:
                if reference in answered:
                    ray.get(reference)
            except RayError:
                names.append(worker.name)
        return names

    def outcomes(
        self,
        calls: Mapping[int, Any],
        call: str,
        failed: Callable[[str], None] = lambda reason: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[int, Any]:
        """As `results`, but waits for all calls. The WorkerError of a worker takes the place of its result.

        calls: index of a worker -> reference. failed: called with the message of each WorkerError as soon as it occurs.
        meanwhile: called repeatedly during the wait.
        """
        end = time.monotonic() + self._timeout_s
        waiting = {reference: index for index, reference in calls.items()}
        found: dict[int, Any] = {}
        while waiting:
            check_head()
            index = next(iter(waiting.values()))
            try:
                ready = self._ready(waiting, call, end, meanwhile)
                if not ready:
                    with self._named(call, self._timeout_s, [index]):
                        raise GetTimeoutError
                for reference in ready:
                    index = waiting[reference]
                    with self._named(call, self._timeout_s, [index]):
                        found[index] = ray.get(reference)
                    del waiting[reference]
                    watchdog.beat(self.name(index))
            except WorkerError as error:
                index = error.index if isinstance(error, WorkerDied) else index
                found[index] = error
                failed(str(error))
                waiting = {reference: i for reference, i in waiting.items() if i != index}
            watchdog.beat()
        return {index: found[index] for index in calls}

    def streams(
        self, method: str, arguments: Sequence[Sequence[Any]], recover: Callable[[int, WorkerError], bool] | None = None
    ) -> Generator[tuple[int, Any]]:
        """Call a generator method on every worker and yield (index of the worker, item) as items arrive.

        Closing the iterator, or an error, cancels the calls that have not ended.
        arguments: for each worker, the arguments of its calls, in order. It gets its next call while it works on the
            current one. The deadline of each item counts from the worker's previous answer, without the time that
            `recover` and the caller take.
        recover: called with the index of a failed worker and its WorkerError. Returns whether another worker has taken
            its place. If so, the calls are repeated there, and all of their items are yielded again. If not, this
            worker's calls are over.
        Raises a MarsError of a worker unchanged. A WorkerError, such as WorkerLost, is raised only without `recover`.
        """
        queues = [CallQueue(partial(self._stream, i, method), calls) for i, calls in enumerate(arguments)]
        deadlines = Deadlines(len(arguments), self._timeout_s)
        with left_by_none(queues, lambda i, calls: cancel(self.workers[i], calls)):
            while running := {queue.stream: i for i, queue in enumerate(queues) if queue.stream is not None}:
                check_head()
                index, end = deadlines.first(running.values())
                try:
                    with self._named(method, self._timeout_s, [index]):
                        ready = self._ready(running, method, end)
                        if not ready:
                            raise GetTimeoutError
                    for stream in ready:
                        index = running[stream]
                        try:
                            with self._named(method, self._timeout_s, [index]):
                                item = ray.get(next(stream))
                        except StopIteration:
                            queues[index].ended()
                            deadlines.answered(index)
                            continue
                        deadlines.answered(index)
                        watchdog.beat(self.name(index))
                        with deadlines.elsewhere():
                            yield index, item
                except WorkerError as error:
                    index = error.index if isinstance(error, WorkerDied) else index
                    if recover is None:
                        raise
                    with deadlines.elsewhere():
                        calls = arguments[index] if recover(index, error) else ()
                    queues[index] = CallQueue(partial(self._stream, index, method), calls)
                    deadlines.answered(index)

    def _stream(self, index: int, method: str, argument: Any) -> Any:
        return getattr(self.workers[index], method).options(num_returns="streaming").remote(argument)

    def close(self) -> None:
        """Call close() on every worker that has started, then kill all workers."""
        started = [worker for i, worker in enumerate(self.workers) if self._process(i) is not None]
        calls = [worker.close.remote() for worker in started]
        busy = ray.wait(calls, num_returns=len(calls), timeout=_CLOSE_TIMEOUT_S)[1] if calls else []
        if busy:
            names = [worker.name for worker in self._resources]
            logging.getLogger(__name__).debug("%d of the workers %s did not close", len(busy), names)
        for worker in self.workers:
            ray.kill(worker)

    def _named(self, call: str, deadline: float, indices: Sequence[int]) -> AbstractContextManager[None]:
        """Ray's errors become MarsErrors that name call, workers and reason; a worker's MarsError stays as it is."""
        return as_mars_errors(lambda reason: self._describe(call, reason, indices), deadline)

    def _describe(self, call: str, reason: str, indices: Sequence[int]) -> str:
        names = ", ".join(self._resources[i].name for i in dict.fromkeys(indices))
        return f"cluster: {call} failed on {names}: {reason}; the workers' logs are in {self.log_dir}"
