"""Two engines and the ranks of a trainer, as threads, with any `WeightTransfer`; and what each must do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from mars.weights.broadcast import BroadcastTransfer
from mars.weights.ipc import IpcTransfer
from mars.weights.meeting import Meeting
from mars.weights.object_store import ObjectStoreTransfer
from mars.weights.store import DriverStore
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
        self.refs: list[list[StorageWeakRef]] = [[] for _ in range(number)]
        self.most_alive = 0
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
        full = {name: value.to(dtype, copy=True).reshape(-1) for name, value in part.items()}
        self.refs[rank] = [ref for ref in self.refs[rank] if not ref.expired()]
        self.most_alive = max(self.most_alive, len(self.refs[rank]))
        self.refs[rank] += [StorageWeakRef(value.untyped_storage()) for value in full.values()]
        return {name: value.split(value.numel() // 2 + 1) for name, value in full.items()}


class FileBytes:
    """`SharedBytes` on the CPU: files that are mapped to memory, where the product has CUDA's handles."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0

    def new(self, num_bytes: int):
        self._number += 1
        name = str(self._folder / f"{threading.get_ident()}_{self._number}")
        return torch.from_file(name, shared=True, size=num_bytes, dtype=torch.uint8), [name, num_bytes]

    def open(self, handle):
        name, num_bytes = handle
        return torch.from_file(name, shared=True, size=num_bytes, dtype=torch.uint8)

    def settle(self) -> None:
        """Copies are done when their calls return."""


class World:
    """The transfers of the ranks and the engines, and the driver's part."""

    def __init__(self, kind: str, num_ranks: int, put=None, get=None) -> None:
        self.kind, self.ranks = kind, Ranks(num_ranks)
        self.pool = ThreadPoolExecutor(16)
        self._folder = TemporaryDirectory()
        stored: dict[int, Mapping[str, torch.Tensor]] = {}

        def keep(value):
            stored[len(stored)] = value
            return len(stored) - 1

        def make(name):
            match kind:
                case "object_store":
                    return ObjectStoreTransfer(put or keep, get or stored.__getitem__)
                case "broadcast":
                    return BroadcastTransfer(name, "cpu", TIMEOUT_S, bucket_bytes=32)
                case _:
                    return IpcTransfer(name, FileBytes(Path(self._folder.name)), TIMEOUT_S, bucket_bytes=32)

        self.senders = [make(f"actor-{i}") for i in range(num_ranks)]
        self.engines = {name: make(name) for name in ENGINES}
        self.meeting = None
        self.store = DriverStore("127.0.0.1")

    def meet(self, version: int, engines=ENGINES, group: str = "g1", send: int = 1) -> None:
        if self.kind != "object_store":
            senders = ("actor-0",) if self.kind == "broadcast" else tuple(f"actor-{name[-1]}" for name in engines)
            self.meeting = Meeting("127.0.0.1", self.store.port, group, senders, tuple(engines), send, version)
            for sender in self.senders:
                sender.meet(self.meeting)

    def send(self, version: int, dtype: torch.dtype = torch.float32) -> list[Future]:
        return [
            self.pool.submit(sender.send, version, self.ranks.buckets(rank, version, dtype))
            for rank, sender in enumerate(self.senders)
        ]

    def fail(self, failing: str, version: int, group: str, send: int) -> dict[str, dict[str, torch.Tensor]]:
        """A send in which something fails after the first bucket: what the engines have that raised nothing."""

        def broken(rank: int, bucket: int) -> None:
            if bucket == 1:
                raise RuntimeError("fault")

        def receive(name: str, payload) -> dict[str, torch.Tensor]:
            got: dict[str, torch.Tensor] = {}
            stream = self.engines[name].receive(payload)
            for key, value in stream:
                got[key] = value.clone()
                if name == "engine-1" and failing == "engine":
                    raise RuntimeError("fault")
                if name == "engine-1" and failing == "engine stops":
                    stream.close()
                    raise RuntimeError("fault")
            return got

        def load(name: str, payload) -> dict[str, torch.Tensor]:
            try:
                return receive(name, payload)
            except BaseException:
                self.engines[name].leave()
                raise

        before, self.ranks.fails = self.ranks.fails, broken if failing == "ranks" else self.ranks.fails
        self.meet(version, group=group, send=send)
        sent = self.send(version)
        if self.meeting is None and sent[0].exception(TIMEOUT_S) is not None:
            loads = {}  # nothing was published
        else:
            payload = self.meeting or sent[0].result()
            loads = {name: self.pool.submit(load, name, payload) for name in ENGINES}
        found = {name: future for name, future in loads.items() if future.exception(TIMEOUT_S) is None}
        for future in sent:
            future.exception(TIMEOUT_S)
        self.ranks.fails = before
        return {name: future.result() for name, future in found.items()}

    def close(self) -> None:
        for transfer in (*self.engines.values(), *self.senders):
            transfer.leave()
        self.pool.shutdown()
        self._folder.cleanup()

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


def check_equal(loaded, version: int, dtype: torch.dtype = torch.float32) -> None:
    wanted = weights(version)
    for got in loaded.values():
        assert list(got) == list(wanted)
        for name, value in wanted.items():
            assert got[name].dtype == dtype
            assert torch.equal(got[name], value.to(dtype)), name


def check_updates(one: World, num_ranks: int) -> None:
    """Every engine gets all weights, again and again, in the type that is asked for."""
    check_equal(one.update(1), 1)
    check_equal(one.update(2, send=2), 2)
    check_equal(one.update(2, ["engine-1"], group="g2", send=3), 2)  # once more, to one that replaces another
    check_equal(one.update(3, group="g3", send=4, dtype=torch.bfloat16), 3, torch.bfloat16)
    assert one.ranks.gathered == [3 * 4] * num_ranks


def check_failures(one: World) -> None:
    """An engine that fails, one that stops early, ranks that fail: whoever raised nothing has all; the next send is
    whole. What raises refuses to generate (`EngineWorker`)."""
    for send, failing in enumerate(("engine", "engine stops", "ranks"), start=2):
        check_equal(one.update(1, group=f"before {failing}", send=10 * send), 1)
        loaded = one.fail(failing, version=2, group=failing, send=10 * send + 1)
        check_equal(loaded, 2)
        assert len(loaded) < len(ENGINES)
        check_equal(one.update(2, group=f"after {failing}", send=10 * send + 2), 2)
