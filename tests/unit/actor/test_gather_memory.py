"""What one rank of four has in memory while it gathers a bucket of weights."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mars.actor.state import _gathered

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
def mesh():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)  # collectives return at once
    yield init_device_mesh("cpu", (RANKS,))
    dist.destroy_process_group()


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
        found = _gathered(bucket, adapters, torch.bfloat16, on_all_ranks)
    assert [sum(piece.numel() for piece in pieces) for pieces in found.values()] == [ROWS * COLUMNS] * LAYERS
    whole = LAYERS * ROWS * COLUMNS * torch.bfloat16.itemsize
    assert memory.most == whole + whole // RANKS
