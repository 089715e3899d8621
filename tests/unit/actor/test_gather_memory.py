"""What one rank of four has in memory while it gathers a bucket of weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mars.actor import state

RANKS, LAYERS, ROWS, COLUMNS = 4, 16, 64, 32


class Memory(TorchDispatchMode):
    """most: bytes of the tensors that were made here and alive at once."""

    def __init__(self, existing) -> None:
        super().__init__()
        self._existing = {value.untyped_storage()._cdata for value in existing}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in self._existing:
                storage = value.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return found


@pytest.fixture
def mesh(monkeypatch):
    """Of four ranks without a process group: their collective calls do nothing."""
    calls = {"get_rank": 0, "gather": None, "all_gather_single": None}
    alone = SimpleNamespace(**{name: lambda *args, found=found, **named: found for name, found in calls.items()})
    monkeypatch.setattr(state, "dist", alone)
    monkeypatch.setattr(DeviceMesh, "get_group", lambda self, axis: None)
    return DeviceMesh("cpu", list(range(RANKS)), _init_backend=False, _rank=0)


@pytest.mark.parametrize("on_all_ranks", [False, True])
def test_a_rank_has_the_bucket_and_its_own_shards_of_it(mesh, on_all_ranks):
    """Also with adapters: their float64 products are made one after another."""
    local = [torch.zeros(ROWS // RANKS, COLUMNS) for _ in range(LAYERS)]
    adapter = [torch.zeros(1, COLUMNS), torch.zeros(ROWS // RANKS, 1)]
    shards = [DTensor.from_local(value, mesh, [Shard(0)], run_check=False) for value in (*local, adapter[1])]
    lora_a = DTensor.from_local(adapter[0], mesh, [Replicate()], run_check=False)
    bucket = {f"{i}.weight": value for i, value in enumerate(shards[:LAYERS])}
    adapters = dict.fromkeys(bucket, (lora_a, shards[LAYERS], 1.0))
    with Memory([*local, *adapter]) as memory:
        found = state._gathered(bucket, adapters, torch.bfloat16, on_all_ranks)
    assert [sum(piece.numel() for piece in pieces) for pieces in found.values()] == [ROWS * COLUMNS] * LAYERS
    whole = LAYERS * ROWS * COLUMNS * torch.bfloat16.itemsize
    assert memory.most == whole + whole // RANKS
