"""Loads a model as rank 0 of several, run by test_loading_memory.py in a process of its own.

python loading_memory_job.py SMALL LARGE RANKS LORA_RANK
-> stdout, as JSON: by how many bytes this process's memory grew at most while it loaded LARGE, and the bytes of
   this rank's shards and of the largest layer. SMALL, a model of the same family, is loaded before the measurement.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from mars.actor.model import ScoringSettings
from mars.actor.trained_policy import trained_policy
from tests.builders import train_config


def status(key: str) -> int:
    """In bytes; VmRSS: this process's memory, VmHWM: the most it has had."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def main(small: str, large: str, ranks: int, lora_rank: int) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)  # collectives return at once
    mesh = init_device_mesh("cpu", (ranks,))

    def load(folder: str):
        config = train_config({"model.path": folder, "actor.lora.rank": lora_rank})
        scoring = ScoringSettings(1.0, (), 16)
        return trained_policy(config.model, config.actor, scoring, "shared_prefix", mesh, seed=0)

    load(small)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    policy = load(large)
    grown = status("VmHWM") - before
    parameters = list(policy.parameters())
    layers = [m for m in policy.backbone.modules() if type(m).__name__.endswith("DecoderLayer")]
    sys.stdout.write(
        json.dumps(
            {
                "grown": grown,
                "whole": 4 * sum(parameter.numel() for parameter in parameters),
                "shards": 4 * sum(parameter.to_local().numel() for parameter in parameters),
                "layer": 4 * max(sum(p.numel() for p in layer.parameters()) for layer in layers),
                "is_loaded": not any(parameter.to_local().is_meta for parameter in parameters),
            }
        )
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
