"""The GPU memory that an update takes, as torch's allocator counts it."""

from __future__ import annotations

import torch
import torch.distributed as dist

_GIB = 2**30


class PeakMemory:
    """The most memory allocated at once in this process on its GPU, from the making of this object on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def metrics(self) -> dict[str, float]:
        """verl's perf/max_memory_allocated_gb, in GiB, of the rank that has the most. A collective call.

        Empty on a CPU, where there is no such count.
        """
        if self._device.type != "cuda":
            return {}
        peak = torch.tensor(torch.cuda.max_memory_allocated(self._device) / _GIB, dtype=torch.float64)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        return {"perf/max_memory_allocated_gb": peak.item()}
