"""Measure how fast this machine multiplies matrices and copies memory.

From both speeds, the benchmarks compute floors: the seconds that the work takes at least on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def measured_rates() -> dict[str, float]:
    """Speeds of a matrix product and of a copy of memory, with torch's present number of threads."""
    return {"operations_per_second": operations_per_second(), "bytes_per_second": bytes_per_second()}


def operations_per_second() -> float:
    """Speed of the fastest of many matrix products with the sizes of the "mid" model of bench.py trainer."""
    one, other = torch.randn(2048, 512), torch.randn(512, 1536)
    return 2.0 * 2048 * 512 * 1536 / _best_seconds(lambda: one @ other)


def bytes_per_second() -> float:
    """Speed of the fastest of many copies too large for any cache. Each byte counts as read once and written once."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 2.0 * source.numel() * source.element_size() / _best_seconds(lambda: target.copy_(source))


def _best_seconds(work: Callable[[], object]) -> float:
    """The shortest of at least eight repetitions in at least a second, so that other programs matter little."""
    seconds: list[float] = []
    while len(seconds) < 8 or sum(seconds) < 1.0:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
