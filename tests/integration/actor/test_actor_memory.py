"""A trainer on the CPU reports no GPU memory."""

from __future__ import annotations

import torch

from mars.actor.memory import PeakMemory


def test_a_cpu_has_no_count(world, pictures):
    assert PeakMemory(torch.device("cpu")).metrics() == {}
    trainer = world.trainer()
    stats = trainer.update(world.batch([world.train_prompt("a", pictures[:1], [3, 2])]))
    assert not [key for key in stats.metrics if key.startswith("perf/")]
