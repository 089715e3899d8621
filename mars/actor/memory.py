"""Peak GPU memory of an update, as counted by torch's allocator."""

from __future__ import annotations

import torch
import torch.distributed as dist

_GIB = 2**30


class PeakMemory:
    """Measures the peak memory allocated on this process's GPU since the object was created."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def metrics(self) -> dict[str, float]:
        """perf/max_memory_allocated_gb: the maximum over all ranks, in GiB, as in verl. A collective call.

        Empty on a CPU.
        """
        if self._device.type != "cuda":
            return {}
        peak = torch.tensor(torch.cuda.max_memory_allocated(self._device) / _GIB, dtype=torch.float64)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        return {"perf/max_memory_allocated_gb": peak.item()}
