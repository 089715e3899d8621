"""What every way of transferring weights must do, with two engines and one or two ranks: threads of this process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from mars.errors import TransferError
from mars.weights import group
from mars.weights.broadcast import BroadcastTransfer
from mars.weights.meeting import Meeting
from mars.weights.object_store import ObjectStoreTransfer
from mars.weights.store import DriverStore, MemberStore
from mars.weights.transfer import Bucket

ENGINES = ("engine-0", "engine-1")
TIMEOUT_S = 20.0


def weights(version: int) -> dict[str, torch.Tensor]:
    """Two layers, and a head that is tied to the embedding: it comes under both names."""
    embedding = torch.arange(6.0).reshape(3, 2) + 100 * version
    return {
        "embed.weight": embedding,
        "layers.0.weight": torch.full((2, 2), version + 0.5),
        "layers.0.bias": torch.tensor([float(version)]),
        "layers.1.weight": torch.full((5,), -float(version)),
        "lm_head.weight": embedding,
    }


class Ranks:
    """Ranks of a trainer that gather their buckets together, as a collective call does."""

    def __init__(self, number: int) -> None:
        self._meet = threading.Barrier(number)
        self.gathered = [0] * number
        self.fails: Callable[[int, int], None] = lambda rank, bucket: None

    def buckets(self, rank: int, version: int, dtype: torch.dtype = torch.float32) -> list[Bucket]:
        named = list(weights(version).items())
        parts = [dict(named[:2]), dict(named[2:4]), dict(named[4:])]
        return [
            Bucket(
                {name: tuple(value.shape) for name, value in part.items()},
                dtype,
                lambda on_all_ranks=False, i=i, part=part: self._gather(rank, i, part, dtype, on_all_ranks),
            )
            for i, part in enumerate(parts)
        ]

    def _gather(self, rank: int, number: int, part: Mapping[str, torch.Tensor], dtype, on_all_ranks: bool):
        """In two pieces, as the shards of two ranks."""
        self.fails(rank, number)
        self._meet.wait(TIMEOUT_S)
        self.gathered[rank] += 1
        if rank and not on_all_ranks:
            return {}
        return {name: value.to(dtype).reshape(-1).split(value.numel() // 2 + 1) for name, value in part.items()}


class World:
    """The transfers of the ranks and the engines, and the driver's part."""

    def __init__(self, kind: str, num_ranks: int) -> None:
        self.kind, self.ranks = kind, Ranks(num_ranks)
        self.pool = ThreadPoolExecutor(16)
        store: dict[int, Mapping[str, torch.Tensor]] = {}

        def put(value):
            store[len(store)] = value
            return len(store) - 1

        def make(name):
            if kind == "object_store":
                return ObjectStoreTransfer(put, store.__getitem__)
            return BroadcastTransfer(name, "cpu", TIMEOUT_S, bucket_bytes=32)

        self.senders = [make(f"actor-{i}") for i in range(num_ranks)]
        self.engines = {name: make(name) for name in ENGINES}
        self.meeting = None
        self.store = DriverStore("127.0.0.1")

    def meet(self, version: int, engines=ENGINES, group: str = "g1", send: int = 1) -> None:
        if self.kind == "broadcast":
            self.meeting = Meeting("127.0.0.1", self.store.port, group, ("actor-0",), tuple(engines), send, version)
            for sender in self.senders:
                sender.meet(self.meeting)

    def send(self, version: int, dtype: torch.dtype = torch.float32) -> list[Future]:
        return [
            self.pool.submit(sender.send, version, self.ranks.buckets(rank, version, dtype))
            for rank, sender in enumerate(self.senders)
        ]

    def load(self, name: str, payload, into: dict[str, torch.Tensor]) -> None:
        """As an engine does: copies each tensor, and leaves if it fails."""
        try:
            for key, value in self.engines[name].receive(payload):
                into[key] = value.clone()
        except BaseException:
            self.engines[name].leave()
            raise

    def update(self, version: int, engines=ENGINES, dtype: torch.dtype = torch.float32, **meeting):
        """What each engine got."""
        self.meet(version, engines, **meeting)
        sent = self.send(version, dtype)
        payload = self.meeting or sent[0].result(TIMEOUT_S)
        loaded = {name: {} for name in engines}
        loads = [self.pool.submit(self.load, name, payload, loaded[name]) for name in engines]
        for future in (*loads, *sent):
            future.result(TIMEOUT_S)
        return loaded


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture
def world():
    made = []

    def build(kind: str, num_ranks: int = 1) -> World:
        made.append(World(kind, num_ranks))
        return made[-1]

    yield build
    for one in made:
        for transfer in (*one.engines.values(), *one.senders):
            transfer.leave()
        one.pool.shutdown()


def check_equal(loaded, version: int, dtype: torch.dtype = torch.float32) -> None:
    wanted = weights(version)
    for got in loaded.values():
        assert list(got) == list(wanted)
        for name, value in wanted.items():
            assert got[name].dtype == dtype
            assert torch.equal(got[name], value.to(dtype)), name


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("kind", ["object_store", "broadcast"])
def test_every_engine_gets_all_weights_again_and_again(world, kind, num_ranks):
    one = world(kind, num_ranks)
    check_equal(one.update(1), 1)
    check_equal(one.update(2, send=2), 2)
    check_equal(one.update(2, ["engine-1"], group="g2", send=3), 2)  # once more, to one that replaces another
    check_equal(one.update(3, group="g3", send=4, dtype=torch.bfloat16), 3, torch.bfloat16)
    assert one.ranks.gathered == [3 * 4] * num_ranks


def failures(futures) -> list[BaseException | None]:
    return [future.exception(TIMEOUT_S) for future in futures]


@pytest.mark.parametrize("when", ["before it joins", "in the middle"])
def test_an_engine_that_fails_costs_the_others_this_send_only(world, when):
    """Rank 0 and the other engine hear of it at once, the ranks still gather together, and the next send is whole."""
    one = world("broadcast", 2)
    one.meet(1)
    sent = one.send(1)
    got = {}
    whole = one.pool.submit(one.load, "engine-0", one.meeting, got)
    start = time.monotonic()
    if when == "in the middle":
        taken = one.engines["engine-1"].receive(one.meeting)
        assert next(taken)[0] == "embed.weight"
        one.engines["engine-1"].leave()
    one.store.abort(one.meeting, "engine-1 died")  # as the driver does
    errors = failures([sent[0], whole])
    assert [type(error) for error in errors] == [TransferError, TransferError]
    assert time.monotonic() - start < TIMEOUT_S / 2
    assert failures(sent[1:]) == [None]
    assert one.ranks.gathered == [3, 3]
    assert set(got) < set(weights(1)), "half of the weights at most"
    check_equal(one.update(1, ["engine-0"], group="g2", send=2), 1)


def test_a_rank_that_fails_ends_the_send_for_the_engines(world):
    one = world("broadcast")

    def lost(rank, bucket):
        if bucket == 1:
            raise RuntimeError("Connection closed by peer")

    one.ranks.fails = lost
    one.meet(1)
    sent = one.send(1)
    loads = [one.pool.submit(one.load, name, one.meeting, {}) for name in ENGINES]
    assert "Connection closed" in str(sent[0].exception(TIMEOUT_S))
    assert [type(error) for error in failures(loads)] == [TransferError, TransferError]


def test_a_rank_that_stops_is_waited_for_until_the_deadline(world, monkeypatch):
    """As one that got SIGSTOP: it says nothing more, but the store still answers, because it is the driver's."""
    one = world("broadcast")
    goes_on = threading.Event()
    one.ranks.fails = lambda rank, bucket: bucket == 2 and goes_on.wait(TIMEOUT_S)
    for engine in one.engines.values():
        monkeypatch.setattr(engine, "_timeout_s", 0.3)
    one.meet(1)
    sent = one.send(1)
    loads = [one.pool.submit(one.load, name, one.meeting, {}) for name in ENGINES]
    errors = failures(loads)
    assert [type(error) for error in errors] == [TransferError] * 2
    for error in errors:  # whichever looks first: this process, gloo, or the other engine
        assert re.search("took longer than 0.3 s|Timed out waiting|another member has left", str(error))
    one.store.abort(one.meeting, "it does not block")
    goes_on.set()
    assert "it does not block" in str(sent[0].exception(TIMEOUT_S))


def test_members_that_are_connecting_hear_of_an_abort(world, monkeypatch):
    """engine-1 dies after it has said that it is there."""
    monkeypatch.setattr(group, "_CONNECT_S", 3.0)
    one = world("broadcast")
    one.meet(1)
    MemberStore(one.meeting, TIMEOUT_S).set("joined/2")
    sent = one.send(1)
    load = one.pool.submit(one.load, "engine-0", one.meeting, {})
    time.sleep(0.1)
    one.store.abort(one.meeting, "engine-1 died")
    errors = failures([*sent, load])
    assert [type(error) for error in errors] == [TransferError] * 2
    assert ["engine-1 died" in str(error) or "another member has left" in str(error) for error in errors] == [True] * 2


def test_an_engine_that_does_not_come_is_waited_for_until_the_deadline(world, monkeypatch):
    """That of rank 0 is shorter here: the other engine hears of it, though they have not connected yet."""
    one = world("broadcast", 2)
    monkeypatch.setattr(one.senders[0], "_timeout_s", 0.3)
    one.meet(1)
    sent = one.send(1)
    whole = one.pool.submit(one.load, "engine-0", one.meeting, {})
    errors = failures([*sent, whole])
    assert [type(error) for error in errors] == [TransferError, type(None), TransferError]
    assert "took longer than 0.3 s" in str(errors[0])
    assert "another member has left" in str(errors[2])


def test_another_version_is_refused_on_both_sides(world):
    one = world("broadcast")
    one.meet(2)
    with pytest.raises(RuntimeError, match="nobody waits for version 1"):
        one.send(1)[0].result(TIMEOUT_S)
    with pytest.raises(RuntimeError, match="nobody waits for version 1"):
        one.send(1)[0].result(TIMEOUT_S)
    one.meet(1)
    sent = one.send(1)
    stale = replace(one.meeting, version=7)
    loads = [one.pool.submit(one.load, name, stale, {}) for name in ENGINES]
    errors = failures([*loads, *sent])
    assert [type(error) for error in errors] == [TransferError] * 3
    assert any("sends version 1, and the engine waits for 7" in str(error) for error in errors)


def test_the_store_listens_on_its_address_only():
    import psutil

    store = DriverStore("127.0.0.1")
    listening = [s.laddr for s in psutil.Process().net_connections("tcp") if s.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == store.port] == ["127.0.0.1"]
