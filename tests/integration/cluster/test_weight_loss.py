"""What the driver does when engines or ranks fail while weights are sent: a worker group without Ray."""

from __future__ import annotations

import pytest
from ray.exceptions import RayError

from mars.cluster import weights
from mars.cluster.engine_worker import EngineWorker
from mars.cluster.ray_engine import RayEngine
from mars.cluster.weights import RankSender, SentWeights
from mars.errors import TransferError, WorkerError, WorkerLost
from mars.rollout.engine import EngineCounts
from mars.rollout.window import Part
from mars.types import WeightUpdate
from mars.weights import store
from tests.fakes.places import OneNode


class Call:
    def __init__(self, function):
        self.remote = function


class Group(OneNode):
    """Workers whose calls are done when they are made, or end with the error that a test has planned for them."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind = kind
        self.calls: list[tuple[str, int, object]] = []
        self.plan: dict[str, list[dict[int, WorkerError]]] = {}
        self.workers = [self._worker(i) for i in range(number)]
        self.log_dir = "logs"

    def _worker(self, index):
        made = type("Worker", (), {})()
        for method in ("build", "load_weights", "send_weights"):
            setattr(made, method, Call(lambda *given, m=method: self._record(m, index, *given)))
        return made

    def _record(self, method, index, *given):
        self.calls.append((method, index, given[-1] if given else None))
        return (method, index)

    def made(self, method):
        return [(index, given) for name, index, given in self.calls if name == method]

    def name(self, index):
        return f"{self.kind}-{index}"

    def end(self, index):
        self.calls.append(("end", index, None))

    def start(self, index):
        self.calls.append(("start", index, None))

    def outcomes(self, calls, call, failed, meanwhile):
        meanwhile()
        errors = self.plan[call].pop(0) if self.plan.get(call) else {}
        for index in calls:
            if index in errors:
                failed(str(errors[index]))
        return {index: errors.get(index) for index in calls}

    def results(self, references, call, timeout_s=None, first=0):
        errors = self.plan[call].pop(0) if self.plan.get(call) else {}
        for error in errors.values():
            raise error
        return [None for _ in references]


@pytest.fixture
def ended(monkeypatch):
    """The meetings that were aborted. Ray says of no call of a rank that it has ended."""
    found = []

    class Store:
        host, port = "10.0.0.1", 1234

        def __init__(self, host):
            assert host == "10.0.0.1", "the driver's address"

        def abort(self, meeting, reason):
            found.append(meeting)

    monkeypatch.setattr(store, "DriverStore", Store)
    monkeypatch.setattr(weights.ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr(weights.ray, "wait", lambda references, **options: ([], references))
    return found


@pytest.fixture
def both(ended):
    engines, ranks = Group("engine", 3), Group("actor", 2)
    sender = RankSender(ranks, ranks.results, 60.0, one_each=False)
    engine = RayEngine(engines, lambda request: 1, 64, 60.0)
    engine.start_build(None, None, None)
    engine.finish_build([], 60.0)
    engines.calls.clear()
    return engine, engines, sender, ranks


def sends(ranks):
    """(group, engines, version) of each send; both ranks were called for each."""
    calls = ranks.made("send_weights")
    assert calls[::2] == [(0, given) for _, given in calls[1::2]]
    return [(given.group, given.engines, given.version) for _, given in calls[::2]]


ALL = ("engine-0", "engine-1", "engine-2")


def test_a_group_serves_until_its_members_change(both, ended):
    engine, engines, sender, ranks = both
    for _ in range(2):
        engine.load_weights(sender.offer())
    assert sends(ranks) == [("weights-1", ALL, 1), ("weights-1", ALL, 2)]
    assert [given.send for _, given in ranks.made("send_weights")[::2]] == [1, 2]
    assert (engines.made("start"), ended) == ([], [])
    assert {given.version for _, given in engines.made("load_weights")} == {1, 2}


def test_one_that_dies_is_replaced_and_the_others_get_the_weights_again(both, ended):
    engine, engines, sender, ranks = both
    other = TransferError("another member has left")
    engines.plan["load_weights"] = [{0: other, 1: WorkerLost("engine-1 died"), 2: other}]
    ranks.plan["send_weights"] = [{0: TransferError("another member has left")}]
    engine.load_weights(sender.offer())
    assert engines.made("start") == [(1, None)]
    assert sends(ranks) == [
        ("weights-1", ALL, 1),
        ("weights-2", ("engine-0", "engine-2"), 1),
        ("weights-3", ("engine-1",), 1),
    ]
    assert [meeting.group for meeting in ended] == ["weights-1"]
    assert engine.counts().restarts == 1
    engine.load_weights(sender.offer())
    assert sends(ranks)[-1] == ("weights-4", ALL, 2)


def test_one_that_fails_twice_for_others_is_replaced_too(both):
    engine, engines, sender, ranks = both
    engines.plan["load_weights"] = [{0: TransferError("broken")}, {0: TransferError("broken")}]
    engine.load_weights(sender.offer())
    assert engines.made("start") == [(0, None)]
    assert [engines for _, engines, _ in sends(ranks)] == [ALL, ("engine-0",), ("engine-0",)]
    assert len({group for group, _, _ in sends(ranks)}) == 3


def test_a_lost_rank_is_the_trainers_loss_and_no_engine_is_replaced(both):
    engine, engines, sender, ranks = both
    engines.plan["load_weights"] = [{i: TransferError("rank 0 has left") for i in range(3)}]
    ranks.plan["send_weights"] = [{0: WorkerLost("actor-0 died")}]
    with pytest.raises(WorkerLost, match="actor-0 died"):
        engine.load_weights(sender.offer())
    assert engines.made("start") == []
    sender.forget()  # the trainer is built again
    engine.load_weights(sender.offer())
    assert sends(ranks)[-1] == ("weights-2", ALL, 2)


def test_a_rank_that_fails_ends_the_send_while_engines_still_wait(both, ended, monkeypatch):
    engine, _, sender, ranks = both
    monkeypatch.setattr(weights.ray, "wait", lambda references, **options: (references[1:], references[:1]))

    def get(reference):
        assert reference == ("send_weights", 1)
        raise RayError("out of memory")

    monkeypatch.setattr(weights.ray, "get", get)
    ranks.plan["send_weights"] = [{1: WorkerError("out of memory")}]
    with pytest.raises(WorkerError, match="out of memory"):
        engine.load_weights(sender.offer())
    assert [meeting.group for meeting in ended] == ["weights-1"]


def test_a_rank_that_dies_while_a_new_engine_waits_costs_no_further_engine(both):
    engine, engines, sender, ranks = both
    engines.plan["load_weights"] = [{1: WorkerLost("engine-1 died")}]
    ranks.plan["send_weights"] = [{}, {1: WorkerLost("actor-1 died")}]
    with pytest.raises(WorkerLost, match="actor-1 died"):
        engine.load_weights(sender.offer())
    assert engines.made("start") == [(1, None)]


def test_an_engine_with_half_of_the_weights_serves_nothing():
    """Not even after a later call; and whoever still sends to it hears of it."""
    left = []

    class Engine:
        fails = True

        def load_weights(self, update):
            if self.fails:
                raise TransferError("rank 0 has left")

        def generate(self, requests):
            yield ["sample"]

        def counts(self):
            return EngineCounts(images=1)

    worker = object.__new__(EngineWorker)
    worker.name, worker._engine = "engine-0", Engine()
    worker._transfer = type("Transfer", (), {"leave": lambda self: left.append(1)})()
    assert list(worker.generate(Part([]))) == [["sample"], EngineCounts()]
    with pytest.raises(TransferError):
        worker.load_weights(WeightUpdate(1, None))
    assert left == [1]
    with pytest.raises(WorkerError, match="engine-0 has not all weights"):
        list(worker.generate(Part([])))
    Engine.fails = False
    worker.load_weights(WeightUpdate(1, None))
    assert list(worker.generate(Part([]))) == [["sample"], EngineCounts()]


def test_an_offer_is_of_one_version(both):
    _, _, sender, _ = both
    first, second = sender.offer(), sender.offer()
    assert (first.version, second.version) == (1, 2)
    assert isinstance(first.payload, SentWeights)
    assert first.payload.give({0: "engine-0"}, 0).version == 1


def test_a_rank_sends_to_the_engine_on_its_gpu(ended):
    ranks = Group("actor", 3)
    sender = RankSender(ranks, ranks.results, 60.0, one_each=True)
    everyone = sender.start(1, {0: "engine-0", 1: "engine-1", 2: "engine-2"}, 0)
    assert (everyone.senders, everyone.engines) == (("actor-0", "actor-1", "actor-2"), ALL)
    replaced = sender.start(1, {2: "engine-2"}, 1)
    assert (replaced.senders, replaced.engines) == (("actor-2",), ("engine-2",))
    assert len(ranks.made("send_weights")) == 6, "all ranks gather"
