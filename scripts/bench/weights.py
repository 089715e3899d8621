"""How long new weights take from the trainer to the engines: by Ray's object store, and by broadcast.

    python scripts/bench.py weights > bench_weights.json
    python scripts/bench.py weights --engine hf --ranks 2 --rounds 20

Both ways take turns in one run with the same engines and ranks. A third measurement takes turns
with them, of what both ways have in common: all engines load weights that are already in their own memory.
docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from mars.build import EngineSpec, TrainerSpec
from mars.cluster import ray_launch
from mars.cluster.engine_worker import EngineWorker
from mars.cluster.node_facts import SharedFiles
from mars.cluster.ray_engine import RayEngine
from mars.cluster.ray_trainer import RayTrainer, TrainerWorker
from mars.cluster.weights import build_transfer
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.types import RolloutRequest, WeightUpdate
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.summary import check, rounded

WAYS = ("object_store", "broadcast")
LOADING = "loading_alone"
TARGET = 0.5  # broadcast / object store
NUM_ENGINES = 2


class TwoWayEngine(EngineWorker):
    """An engine with both transfers."""

    def use(self, way: str, config: TrainConfig) -> None:
        """Use the transfer `way` from now on. The other one is kept, with its connections."""
        self._ways = getattr(self, "_ways", {config.rollout.weight_transfer: self._transfer})
        if way not in self._ways:
            self._ways[way] = build_transfer(self.name, _with_way(config, way).rollout, config.cluster)
        self._transfer = self._ways[way]
        self._engine._fetch = self._transfer.receive  # type: ignore[attr-defined]

    def keep(self, update: WeightUpdate) -> None:
        """Receive an update that was sent by object store, and keep its weights in the memory of this process."""
        self._kept = update, list(self._ways["object_store"].receive(update.payload))

    def load_kept(self) -> None:
        update, weights = self._kept
        self._engine._fetch = lambda payload: iter(weights)  # type: ignore[attr-defined]
        self._engine.load_weights(update)


class TwoWayRank(TrainerWorker):
    """A rank of the trainer that can send weights in both ways."""

    def use(self, way: str, config: TrainConfig) -> None:
        self._ways = getattr(self, "_ways", {config.rollout.weight_transfer: self._transfer})
        if way not in self._ways:
            self._ways[way] = build_transfer(self.name, _with_way(config, way).rollout, config.cluster)
        self._transfer = self._ways[way]
        self._trainer._publisher._transfer = self._transfer  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bucket-bytes", type=int, default=None, help="default: that of the configuration")
    options = parser.parse_args(arguments)
    # Ray's workers find the classes above in a module by its name.
    module: Any = import_module("scripts.bench.weights")
    ray_launch.EngineWorker, ray_launch.TrainerWorker = module.TwoWayEngine, module.TwoWayRank
    with tempfile.TemporaryDirectory() as folder:
        model, num_parameters = write_model(Path(folder) / "model")
        config = settings(model, options)
        seconds = measure(config, options.rounds, Path(folder) / "logs")
    ratios = [b / a for a, b in zip(seconds["object_store"], seconds["broadcast"], strict=True)]
    ratio = median(seconds["broadcast"]) / median(seconds["object_store"])
    report = {
        "settings": vars(options),
        "machine": machine_facts() | {"cpu_busy_at_end": busy_share()},
        "parameters": num_parameters,
        "seconds": {way: {"quartiles": quantiles(times, n=4), "all": times} for way, times in seconds.items()},
        "loading_alone/object_store": median(seconds[LOADING]) / median(seconds["object_store"]),
        "broadcast/object_store": check(ratio, TARGET) | {"of_each_round": ratios},
    }
    sys.stdout.write(json.dumps(rounded(report, digits=7), indent=2) + "\n")
    return 0


def write_model(folder: Path) -> tuple[Path, int]:
    """Write the trainer benchmark's model of 32 million parameters, with a processor.

    Returns `folder` and the number of parameters.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from mars.data.synthetic.tiny_model import build_tiny
    from scripts.bench.trainer_cases import model_config

    build_tiny(folder, seed=0)
    model = AutoModelForImageTextToText.from_config(model_config("mid"), dtype=torch.float32)
    model.save_pretrained(folder)
    return folder, model.num_parameters()


def settings(model: Path, options: argparse.Namespace) -> TrainConfig:
    overrides = [
        f"model.path={model}",
        "model.dtype=float32",
        "data.train_files=[none.jsonl]",
        "cluster.device=cpu",
        "cluster.object_store_bytes=1000000000",  # room for both versions of the weights and their copies
        f"rollout={options.engine}",
        f"rollout.num_workers={NUM_ENGINES}",
        "rollout.weight_transfer=broadcast",
        "rollout.max_model_len=512",
        "rollout.max_response_tokens=64",
        "data.max_prompt_tokens=256",
        "rollout.vllm.enforce_eager=true",
        "rollout.vllm.block_size=32",
        "rollout.vllm.kv_cache_memory_bytes=67108864",
        f"actor.num_workers={options.ranks}",
        "algorithm.kl_coefficient=0.0",
    ]
    if options.bucket_bytes is not None:
        overrides.append(f"rollout.weight_bucket_bytes={options.bucket_bytes}")
    return load_config("train", overrides, [])


def measure(config: TrainConfig, rounds: int, log_dir: Path) -> dict[str, list[float]]:
    """Way -> seconds in each round from publishing new weights until all engines have loaded them. Under `LOADING`:
    seconds to load weights from the engines' own memory. A first round is not counted."""
    from mars.cluster.restarts import no_report
    from mars.data.prompts.chat import PromptEncoder

    rules = PromptEncoder.from_pretrained(config.model.path).token_rules()
    seconds: dict[str, list[float]] = {way: [] for way in (*WAYS, LOADING)}
    specs = EngineSpec(config, rules, 2), TrainerSpec(config, rules)
    with ray_launch.ray_workers(config, *specs, _prompt_length, SharedFiles(), log_dir, no_report) as (engine, trainer):
        assert isinstance(engine, RayEngine)
        assert isinstance(trainer, RayTrainer)
        assert trainer._sender is not None
        sender = trainer._sender
        for number in range(-1, rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                for group in (engine._group, trainer._group):
                    group.results([worker.use.remote(way, config) for worker in group.workers], "use")
                trainer._sender = sender if way == "broadcast" else None
                start = time.perf_counter()
                update = trainer.publish_weights()
                engine.load_weights(update)
                taken = time.perf_counter() - start
                sender._version = update.version  # because each way numbers the versions itself
                if number >= 0:
                    seconds[way].append(taken)
                sys.stderr.write(f"round {number + 1} of {rounds}: {way} {taken:.3f} s\n")
                if number < 0 and way == "object_store":
                    stored = WeightUpdate(update.version, update.payload.give({}, 0))
                    engine._group.results([worker.keep.remote(stored) for worker in engine._group.workers], "keep")
            start = time.perf_counter()
            engine._group.results([worker.load_kept.remote() for worker in engine._group.workers], "load")
            if number >= 0:
                seconds[LOADING].append(time.perf_counter() - start)
    return seconds


def _with_way(config: TrainConfig, way: str) -> TrainConfig:
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"weight_transfer": way})})


def _prompt_length(request: RolloutRequest) -> int:
    """Stands in for the prompt length by which requests are shared out among engines. Nothing is generated here."""
    return len(request.prompt_token_ids)
