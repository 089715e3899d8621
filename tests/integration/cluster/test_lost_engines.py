"""`RayEngine` when engines are lost, with a worker group without Ray: who is brought back, and who is left out."""

from __future__ import annotations

import threading
from itertools import permutations

import pytest

from mars.background import Background, Stopped
from mars.cluster import node_check, successor
from mars.cluster.agreement import Difference
from mars.cluster.node_facts import SharedFiles
from mars.cluster.node_plan import Amount
from mars.cluster.nodes import Node
from mars.cluster.ray_engine import RayEngine
from mars.errors import InterruptedRun, SetupError, WorkerError, WorkerLost


class Call:
    def __init__(self, do):
        self.remote = lambda *arguments: do()


class Ended:
    """The end of a process on a node that answers, or is lost."""

    def __init__(self, is_over):
        self._is_over = is_over

    def is_over(self, timeout_s=0.0):
        return self._is_over


class Group:
    """delays: how often each engine is looked at before its new process runs; None: it has no room.

    errors: of each engine's next builds. refusals: what asking for room raises, by engine.
    """

    def __init__(self, number, delays=(), errors=(), nodes_lost=False):
        self.delays = dict(enumerate(delays or [0] * number))
        self.errors = {engine: list(each) for engine, each in dict(errors).items()}
        self.refusals, self.nodes_lost, self.nodes = {}, nodes_lost, [f"a{i}" for i in range(number)]
        self.lost, self.looks, self.starts = set(), dict.fromkeys(range(number), 0), dict.fromkeys(range(number), 0)
        self.workers = [self._worker(i) for i in range(number)]

    def _worker(self, index):
        each = Call(lambda: WorkerLost(f"engine-{index} died") if index in self.lost else None)
        build = Call(lambda: ("build", index))
        return type("Worker", (), {"sleep": each, "wake": each, "prefetch": each, "build": build})

    def name(self, index):
        return f"engine-{index}"

    def node(self, index):
        return self.nodes[index]

    def node_name(self, index):
        return f"host of {self.nodes[index]}"

    def end(self, index):
        return Ended(not self.nodes_lost)

    def has_room(self, index):
        if index in self.refusals:
            raise self.refusals[index]
        return self.delays[index] is not None

    def start(self, index):
        self.starts[index] += 1
        if self.nodes_lost:
            self.nodes[index] = "b"
        self.lost.discard(index)

    def is_running(self, index):
        self.looks[index] += 1
        return self.looks[index] > self.delays[index]

    def is_done(self, call):
        return True

    def results(self, calls, what, timeout_s=None, first=0):
        for _, index in calls:
            if self.starts[index] and self.errors.get(index):
                raise self.errors[index].pop(0)
        return [None for _ in calls]

    def outcomes(self, calls, what, **more):
        return dict(calls)


@pytest.fixture
def reports(monkeypatch):
    monkeypatch.setattr(successor, "_LOOK_S", 0.0)
    return []


def engine_on(group, reports, replace_timeout_s=0.0):
    made = RayEngine(
        group, len, 8, replace_timeout_s, report=lambda event, name, reason: reports.append((event, name, reason))
    )
    made.finish_build(made.start_build(None, None, None), timeout_s=60.0)
    return made


def events(reports):
    return sorted((event, name) for event, name, _ in reports)


@pytest.mark.parametrize("order", [order for number in (1, 2, 3) for order in permutations(range(number))])
def test_engines_that_are_all_lost_asleep_are_all_back_whichever_starts_first(order, reports):
    group = Group(len(order), delays=[3 * place for place in order])
    engine = engine_on(group, reports)
    group.lost = set(range(len(order)))
    engine.sleep()
    engine.wake()
    assert len(engine._absent) == 0
    assert events(reports) == sorted(
        (event, f"engine-{i}") for i in order for event in ("worker_lost", "worker_replaced")
    )
    assert engine.counts().restarts == len(order), "each loss counts once"
    engine.sleep()
    engine.wake()
    assert len(reports) == 2 * len(order), "nothing is lost any more"


def test_of_engines_lost_asleep_with_their_node_those_without_room_are_left_out(reports):
    group = Group(3, delays=[0, None, 0], nodes_lost=True)
    engine = engine_on(group, reports)
    group.lost = {1, 2}
    engine.sleep()
    engine.wake()
    assert events(reports) == [
        ("engine_left_out", "engine-1"), ("worker_lost", "engine-1"), ("worker_lost", "engine-2"),
        ("worker_replaced", "engine-2"),
    ]  # fmt: skip
    assert engine._absent.others() == [0, 2]


def test_a_call_that_is_stopped_does_not_wait_for_a_new_engine_and_the_next_one_does(reports):
    """A rank was lost meanwhile. The engine that is being replaced is no other's work: it is back in the next call."""
    group, waits = Group(2, delays=[0, None]), threading.Event()
    engine = engine_on(group, reports)
    group.lost = {1}
    has_room = group.has_room

    def watched(index):
        waits.set()
        return has_room(index)

    group.has_room = watched
    with Background(lambda: engine.prefetch([]), name="sampling") as call:
        assert waits.wait(20.0)
    assert isinstance(call._error, Stopped)
    assert engine._absent.others() == [0]
    group.delays[1] = 3
    engine.load_weights(None)
    assert events(reports) == [("worker_lost", "engine-1"), ("worker_replaced", "engine-1")]
    assert engine._absent.others() == [0, 1]
    assert engine.counts().restarts == 1


def left_out(group, reports):
    """An engine of two whose node is lost, and for which there was no room; now there is."""
    engine = engine_on(group, reports)
    group.delays[1], group.lost = None, {1}
    engine.prefetch([])
    assert events(reports) == [("engine_left_out", "engine-1"), ("worker_lost", "engine-1")]
    reports.clear()
    group.delays[1] = 0
    return engine


@pytest.mark.parametrize("kind", ["build", "check of the node"])
def test_an_engine_that_cannot_be_built_where_there_is_room_is_left_alone(kind, reports):
    group = Group(2, nodes_lost=True)
    engine = left_out(group, reports)
    if kind == "build":
        group.errors[1] = [SetupError("vllm is missing")] * 9
    else:
        group.refusals[1] = SetupError("vllm is missing")
    for _ in range(5):
        engine.load_weights(None)
    assert events(reports) == [("engine_left_out", "engine-1")], "said once"
    reason = "engine-1 cannot be built on host of b: vllm is missing"
    assert reports[0][2] == (reason if kind == "build" else "engine-1 cannot be built: vllm is missing")
    assert group.starts[1] == (kind == "build")


@pytest.mark.parametrize(("deaths", "is_back"), [(2, True), (3, False), (9, False)])
def test_an_engine_that_dies_in_its_build_is_started_three_times(deaths, is_back, reports):
    group = Group(2, nodes_lost=True)
    engine = left_out(group, reports)
    group.errors[1] = [WorkerLost("engine-1 died")] * deaths
    for _ in range(9):
        engine.load_weights(None)
    assert group.starts[1] == 3
    assert events(reports) == [("worker_replaced" if is_back else "engine_left_out", "engine-1")]
    assert (1 in engine._absent.others()) == is_back


@pytest.mark.parametrize("kind", ["build", "check of the node"])
def test_a_lost_engine_that_fails_on_another_node_is_left_alone_while_others_work(kind, reports):
    group = Group(2, nodes_lost=True)
    if kind == "build":
        group.errors = {1: [SetupError("vllm is missing")]}
    else:
        group.refusals[1] = SetupError("vllm is missing")
    engine = engine_on(group, reports, replace_timeout_s=60.0)
    group.lost = {1}
    engine.prefetch([])
    assert events(reports) == [("engine_left_out", "engine-1"), ("worker_lost", "engine-1")]
    assert engine._absent.others() == [0]
    group.lost = {0}
    if kind == "build":
        engine.prefetch([])
        assert engine._absent.others(), "with no engine left, it is worth a try again"


@pytest.mark.parametrize("error", [SetupError("no model"), WorkerError("ValueError: no model")])
def test_a_build_that_fails_on_the_same_node_ends_the_run(error, reports):
    group = Group(2, errors={1: [error]})
    engine = engine_on(group, reports)
    group.lost = {1}
    with pytest.raises(type(error), match="no model"):
        engine.prefetch([])


def test_the_last_engine_s_failed_build_ends_the_run(reports):
    group = Group(1, errors={0: [SetupError("no model")]}, nodes_lost=True)
    engine = engine_on(group, reports)
    group.lost = {0}
    with pytest.raises(SetupError, match="no model"):
        engine.prefetch([])


def test_an_interrupt_is_no_failed_build(reports):
    group = Group(2, nodes_lost=True)
    engine = left_out(group, reports)
    group.errors[1] = [InterruptedRun("Ctrl-C")]
    with pytest.raises(InterruptedRun):
        engine.load_weights(None)


def test_a_node_that_differs_is_refused_each_time_it_is_asked(monkeypatch):
    check, asked = node_check.NodeCheck(SharedFiles(), {}, 1.0), []
    node = Node("b", "b", Amount(0, 0), Amount(0, 0), 0)
    answers = [[Difference("package", "vllm", "missing", "1")]] * 2 + [[]]

    def start(node, runs_vllm):
        asked.append(node)
        check._asked.append((node, runs_vllm, None))
        check._seen.add((node.id, runs_vllm))

    monkeypatch.setattr(check, "start", start)
    monkeypatch.setattr(check, "_compared", lambda *arguments: answers.pop(0))
    monkeypatch.setattr(node_check, "node_facts", lambda *arguments: {})
    monkeypatch.setattr(node_check, "name_of_this_node", lambda: "a")
    for _ in range(2):
        with pytest.raises(SetupError, match="vllm"):
            check.agrees(node, True)
    assert [check.agrees(node, True) for _ in range(2)] == [True, True], "it was put right, and is not asked again"
    assert len(asked) == 3
