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


@pytest.mark.parametrize("changes", [{}, {"lora.rank": 3, "learning_rate": 2e-2}])
def test_an_offloaded_trainer_sends_its_weights(tied_world, pictures, changes):
    """To an engine that replaces a lost one while the others generate. They are what the trainer has on its device."""
    trainer = tied_world.trainer(**changes)
    trainer.update(tied_world.batch([tied_world.train_prompt("a", pictures[:1], [3, 2])]))
    there = {name: value.clone() for name, value in trainer.send_weights(1).payload.items()}
    trainer.offload()
    for version in (1, 2):
        sent = trainer.send_weights(version).payload
        assert list(sent) == list(there)
        assert all(torch.equal(sent[name], value) for name, value in there.items())
    with pytest.raises(RuntimeError, match="call onload first"):
        trainer.save("nowhere")
