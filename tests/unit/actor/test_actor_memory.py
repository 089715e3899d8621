"""The trainer's count of GPU memory. That torch counts rightly is seen in tests/gpu."""

from __future__ import annotations

import torch

from mars.actor.memory import PeakMemory


def test_the_count_starts_anew_and_is_in_gib(process_group, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    peak = PeakMemory(torch.device("cuda", 1))
    assert asked == [torch.device("cuda", 1)]
    assert peak.metrics() == {"perf/max_memory_allocated_gb": 1.5}
