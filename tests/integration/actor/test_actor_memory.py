"""A trainer on the CPU reports no GPU memory."""

from __future__ import annotations

import pytest
import torch

from mars.actor.memory import PeakMemory
from mars.offload import storages_of


def test_a_cpu_has_no_count(world, pictures):
    assert PeakMemory(torch.device("cpu")).metrics() == {}
    trainer = world.trainer()
    stats = trainer.update(world.batch([world.train_prompt("a", pictures[:1], [3, 2])]))
    assert not [key for key in stats.metrics if key.startswith("perf/")]


@pytest.mark.parametrize("place", ["none", "cpu"])
def test_weights_in_cpu_memory_stay_there_while_the_engine_has_its_turn(world, pictures, place):
    """Only buffers are moved; the next update is that of a trainer that was never offloaded."""
    batch = world.batch([world.train_prompt("a", pictures[:1], [3, 2])])
    trainer, other = (world.trainer(offload=place) for _ in range(2))
    trainer.update(batch)
    other.update(batch)
    trainer.offload()
    tensors = [*trainer._policy.parameters(), *trainer._optimizer.moments()]
    assert all((storage.nbytes() > 0) == (place == "cpu") for storage in storages_of(tensors).values())
    assert not any(storage.nbytes() for storage in storages_of(trainer._policy.buffers()).values())
    trainer.onload()
    assert trainer.update(batch).metrics == other.update(batch).metrics
