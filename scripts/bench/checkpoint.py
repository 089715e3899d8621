"""What a checkpoint costs a training step, how large it is, and what supervision costs.

    python scripts/bench.py checkpoint > bench_checkpoint.json
    python scripts/bench.py checkpoint --models tiny --rounds 3 --pairs 0 --folder /disk/tmp

`blocked` is how long the step waits when a checkpoint is due: for the trainer's copy to CPU memory, and for state.json.
`synchronous` is how long the step would wait until the checkpoint is complete. Saves of both kinds take turns in one
process, with the same weights and optimizer of one rank. The first save of each model is reported on its own.
`supervision` is the cost of noticing faults (beats of the watchdog, deadlines, checks of Ray's head) in a training run
with Ray and vLLM. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from mars.actor.model import shard
from mars.actor.optimizer import Optimizer
from mars.actor.shards import ShardWriter, trainer_state
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import RunState
from mars.config.load import load_config
from mars.step_parts import SamplingState
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.paths import path_option
from scripts.bench.summary import check, rounded
from scripts.bench.supervision import supervision
from scripts.bench.trainer_cases import build_policy

MODELS = {"tiny": 0, "large": 15}
"""Model -> number of layers. tiny: the quick start's model, as it is. large: the trainer benchmark's `mid`."""
BLOCKED_TARGET = 0.10  # blocked / synchronous, of the large model
SIZE_TARGET = 1.02  # bytes on disk / bytes of weights and optimizer, of the large model


class Trainer:
    """The part of a rank that saves: weights and a filled optimizer, without forwards."""

    def __init__(self, name: str) -> None:
        overrides = ["data.train_files=[none.jsonl]", "model.path=none", "model.dtype=float32", "cluster.device=cpu"]
        self.settings = load_config("train", overrides, [])
        self.policy = build_policy("tiny" if name == "tiny" else "mid", "padded", MODELS[name])
        shard(self.policy, init_device_mesh("cpu", (1,)), "float32")
        named = dict(self.policy.named_parameters())
        self.optimizer = Optimizer(named, self.settings.actor, total_steps=None)
        for parameter in named.values():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        self._shards = ShardWriter()

    def start_checkpoint(self, folder: str) -> None:
        self._shards.start(trainer_state(self.policy, self.optimizer, 0, rank=0), folder)

    def num_bytes(self) -> int:
        """Of weights and optimizer."""
        tensors = [*self.policy.parameters(), *self.policy.buffers(), *self.optimizer.tensors().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=path_option, default=None, help="on the disk to be measured; default: a temporary one"
    )
    parser.add_argument("--pairs", type=int, default=40, help="of steps with and without supervision; 0: no such run")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that the run may take")
    options = parser.parse_args(arguments)
    if options.pairs == 1:
        parser.error("--pairs: one pair has no spread; got 1; give 0, or 2 and more")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    report: dict[str, Any] = {
        "settings": vars(options) | {"folder": str(options.folder)},
        "machine": machine_facts() | {"cpu_busy_at_start": busy_share()},
        "models": {name: bench_model(name, options.rounds, options.folder) for name in options.models},
    }
    if options.pairs:
        report["supervision"] = supervision(options.pairs, options.timeout)
    report["machine"]["cpu_busy_at_end"] = busy_share()
    sys.stdout.write(json.dumps(rounded(report, digits=7), indent=2) + "\n")
    dist.destroy_process_group()
    return 0


def bench_model(name: str, rounds: int, folder: Path | None) -> dict[str, Any]:
    trainer = Trainer(name)
    seconds: dict[str, list[float]] = {"blocked": [], "synchronous": []}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        catalogue = Catalogue(Path(place) / "checkpoints")
        settings = trainer.settings.checkpoint.model_copy(update={"every": 1, "keep_last": 2})
        saving = Checkpoints(catalogue, trainer, 1, settings, {}, "data", 600.0)
        first = timed(lambda: saving.save_now(state(1)))
        step = 1
        for number in range(rounds):
            for kind in seconds if number % 2 == 0 else reversed(seconds):
                step += 1
                save = saving.save_if_due if kind == "blocked" else saving.save_now
                now = state(step)
                seconds[kind].append(timed(lambda save=save, now=now: save(now)))
                saving.save_now(now)  # waits for the checkpoint if `save` only started it
            sys.stderr.write(f"{name}: round {number + 1} of {rounds}\n")
        newest = catalogue.path(catalogue.steps()[-1])
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    ratios = [a / b for a, b in zip(seconds["blocked"], seconds["synchronous"], strict=True)]
    ratio = median(seconds["blocked"]) / median(seconds["synchronous"])
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.policy.parameters()),
        "bytes": trainer.num_bytes(),
        "bytes_on_disk": size,
        "seconds": seconds | {"first": first},
        "blocked/synchronous": check(ratio, BLOCKED_TARGET) | {"of_each_round": ratios},
        "on_disk/in_memory": check(size / trainer.num_bytes(), SIZE_TARGET),
    }


def state(step: int) -> RunState:
    return RunState(step, SamplingState(step, ()), {"actor/pg_loss": 0.0}, logged=True)


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
