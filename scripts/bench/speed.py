"""How fast this machine multiplies and copies: what floors are given in seconds with."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def measured_rates() -> dict[str, float]:
    """With the threads that torch has here."""
    return {"operations_per_second": operations_per_second(), "bytes_per_second": bytes_per_second()}


def operations_per_second() -> float:
    """Of the fastest of many products of matrices as large as those of bench.py trainer's mid model."""
    one, other = torch.randn(2048, 512), torch.randn(512, 1536)
    return 2.0 * 2048 * 512 * 1536 / _best_seconds(lambda: one @ other)


def bytes_per_second() -> float:
    """Of the fastest of many copies that no cache holds: every byte is read once and written once."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 2.0 * source.numel() * source.element_size() / _best_seconds(lambda: target.copy_(source))


def _best_seconds(work: Callable[[], object]) -> float:
    """Of a second's repetitions, and of eight at least: some of them have the core for themselves."""
    seconds: list[float] = []
    while len(seconds) < 8 or sum(seconds) < 1.0:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
