"""What every way of transferring weights must do, with two engines and one or two ranks: threads of this process."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from mars.errors import TransferError
from mars.weights import cuda_ipc, group, plan
from mars.weights.store import DriverStore, MemberStore
from tests.examples import some
from tests.unit.weights.contract import (
    ENGINES,
    TIMEOUT_S,
    World,
    check_equal,
    check_failures,
    check_updates,
    weights,
)


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # When the tests are over, Python waits until connections that were given up have failed.
    monkeypatch.setattr(group, "_CONNECT_S", 2.0)


@pytest.fixture
def world():
    made = []

    def build(kind: str, num_ranks: int = 1) -> World:
        made.append(World(kind, num_ranks))
        return made[-1]

    yield build
    for one in made:
        one.close()


KINDS = [("object_store", 1), ("object_store", 2), ("broadcast", 1), ("broadcast", 2), ("ipc", 2)]


@pytest.mark.parametrize(("kind", "num_ranks"), KINDS)
def test_every_engine_gets_all_weights_again_and_again(world, kind, num_ranks):
    check_updates(world(kind, num_ranks), num_ranks)


@pytest.mark.parametrize(("kind", "num_ranks"), some(KINDS, 3))
def test_no_failure_leaves_half_of_the_weights(world, kind, num_ranks):
    check_failures(world(kind, num_ranks))


@pytest.mark.parametrize(("kind", "num_ranks"), [("broadcast", 2), ("ipc", 2)])
def test_ranks_and_engines_hold_one_bucket_or_two(world, kind, num_ranks):
    """A rank that gathers has no shards of earlier buckets; an engine that loads has let go of them."""
    one, alive = world(kind, num_ranks), []

    def load(name):
        seen = {}
        for key, value in one.engines[name].receive(one.meeting):
            seen[key] = StorageWeakRef(value.untyped_storage())
            del value
            alive.append(len({ref.cdata for ref in seen.values() if not ref.expired()}))

    one.meet(1)
    futures = [*one.send(1), *(one.pool.submit(load, name) for name in ENGINES)]
    assert failures(futures) == [None] * len(futures)
    assert one.ranks.most_alive == 0
    assert set(alive) == {1}


def failures(futures) -> list[BaseException | None]:
    return [future.exception(TIMEOUT_S) for future in futures]


@pytest.mark.parametrize("when", ["before it joins", "in the middle"])
def test_an_engine_that_fails_costs_the_others_this_send_only(world, when):
    """Rank 0 and the other engine hear of it at once, the ranks still gather together, and the next send is whole."""
    one, goes_on, got = world("broadcast", 2), threading.Event(), {}
    # The last bucket waits, or the other engine might have all of the weights before this one fails.
    one.ranks.fails = lambda rank, bucket: bucket == 2 and goes_on.wait(TIMEOUT_S)
    one.meet(1)
    sent = one.send(1)
    other = one.pool.submit(one.load, "engine-0", one.meeting, got)
    start = time.monotonic()
    if when == "in the middle":
        taken = one.engines["engine-1"].receive(one.meeting)
        assert next(taken)[0] == "embed.weight"
        one.engines["engine-1"].leave()
    one.store.abort(one.meeting, "engine-1 died")  # as the driver does
    assert isinstance(other.exception(TIMEOUT_S), TransferError)
    goes_on.set()
    assert isinstance(sent[0].exception(TIMEOUT_S), TransferError)
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
    for error in errors:  # whichever looks first: this process, gloo, the other engine, or the store's connection
        assert re.search("took longer than 0.3 s|[Tt]imed out|another member has left", str(error))
    one.store.abort(one.meeting, "it does not block")
    goes_on.set()
    assert "it does not block" in str(sent[0].exception(TIMEOUT_S))


def test_members_that_are_connecting_hear_of_an_abort(world, monkeypatch):
    """engine-1 dies after it has said that it is there."""
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


class Eager:
    """A `SendGroup` whose broadcasts are over for rank 0 at once, as those of small tensors with NCCL."""

    def __init__(self, store: MemberStore) -> None:
        self.store = store

    def start(self, values) -> None:
        """Nothing is sent here."""

    def wait(self) -> None:
        """Nothing is waited for."""


def test_an_engine_may_read_the_plan_after_rank_0_is_done(world):
    """In a group used again nobody waits for an engine that is late. The plan is gone with the next send."""
    one = world("broadcast")
    one.meet(1)
    first, engine = one.meeting, MemberStore(one.meeting, TIMEOUT_S)
    eager = Eager(MemberStore(first, TIMEOUT_S))
    for version in (1, 2):
        eager.store.begin(replace(first, send=version, version=version))
        buckets = one.ranks.buckets(0, version)
        one.senders[0]._send(eager, version, buckets, iter(buckets))
        assert engine._store.check([f"g1/{version}/plan"])
    engine.begin(replace(first, send=2, version=2))
    assert plan.announced(engine, "plan").buckets[0].keys() == {"embed.weight", "layers.0.weight"}
    assert not engine._store.check(["g1/1/plan"])


def test_what_was_kept_for_an_abandoned_broadcast_is_let_go_with_the_next_send(world):
    """gloo ends it at its deadline only, so it is still in progress when its group is left."""

    class Broadcast:
        over = False

        def is_completed(self) -> bool:
            return self.over

    one = world("broadcast")
    one.update(1)
    entry = (object(), Broadcast(), torch.zeros(1))
    group._abandoned.append(entry)
    one.update(2, send=2)
    assert entry in group._abandoned
    entry[1].over = True
    one.update(3, send=3)  # in the same group
    assert entry not in group._abandoned


def test_the_store_listens_on_its_address_only():
    import psutil

    store = DriverStore("127.0.0.1")
    listening = [s.laddr for s in psutil.Process().net_connections("tcp") if s.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == store.port] == ["127.0.0.1"]


def test_a_handle_of_cuda_is_the_same_after_json():
    handle = (b"\x00\xff" * 32, 4096, 512, b"/torch_1_2", 7, b"", True)
    text = json.dumps([cuda_ipc._to_text(part) for part in handle])
    assert [cuda_ipc._from_text(part) for part in json.loads(text)] == list(handle)
