"""The variants of scripts/bench.py gpu: what each one changes, and estimates of the GPU memory that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mars.checks.memory import DTYPE_BYTES, activation_bytes, engine_memory, read_shape, trainer_memory
from mars.checks.trained import num_trained
from mars.config.schema import TrainConfig
from mars.data.prompts.tokenizer import read_json
from scripts.bench.gpu_work import Group

LORA_RANK = 64
# The rest is for temporary tensors and memory that the allocator cannot use, which the estimate leaves out.
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Variant:
    """overrides: applied after those of the case. compares: whether it runs with each of the benchmark's --packings,
    not only with the first.

    most_prompts, most_response_tokens: upper limits for the options --prompts and --response-tokens of the benchmark;
        None: no limit.
    """

    name: str
    overrides: tuple[str, ...]
    compares: bool = False
    most_prompts: int | None = None
    most_response_tokens: int | None = None


_HF = ("rollout.engine=hf", "rollout.max_num_seqs=16")
VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("checkpointing", (), compares=True),
        # One group per forward, because every layer keeps its activations.
        Variant("no_checkpointing", ("actor.gradient_checkpointing=false", "actor.tokens_per_forward=8192")),
        Variant(
            "lora", (f"actor.lora.rank={LORA_RANK}", f"actor.lora.alpha={LORA_RANK}", "actor.learning_rate=1.0e-4")
        ),
        # Whole steps with the engine of transformers. It is slow, so there is less to generate.
        Variant("hf_engine", _HF, most_prompts=2, most_response_tokens=64),
        Variant("colocated", (*_HF, "cluster.placement=colocated"), most_prompts=2, most_response_tokens=64),
    )
}


def estimated_memory(config: TrainConfig, group: Group) -> dict[str, int]:
    """Bytes on the trainer's GPU by purpose, from mars/checks/memory.py. A forward has as many whole groups as fit into
    actor.tokens_per_forward, but at least one.

    With cluster=local this GPU also has the engine `hf`, unless engine and trainer take turns. Without LoRA, the vision
    tower's activations, which mars/checks/memory.py leaves out, are added.
    """
    actor, rollout, dtype = config.actor, config.rollout, config.model.dtype
    folder = Path(config.model.path)
    settings = read_json(config.model.path, "config.json")
    shape, trained = read_shape(settings, folder), num_trained(config.model, actor)
    groups = max(actor.tokens_per_forward // group.tokens, 1)
    found = trainer_memory(
        replace(shape, num_parameters=shape.num_parameters + (trained if actor.lora.rank else 0)),
        num_trained=trained,
        num_ranks=actor.num_workers,
        dtype=dtype,
        tokens_per_forward=groups * group.tokens,
        logprob_chunk_tokens=actor.logprob_chunk_tokens,
        gradient_checkpointing=actor.gradient_checkpointing,
        with_reference=False,
    )
    if not actor.lora.rank:  # adapters are only in the language model: no activation below it is kept for a backward
        patches = groups * sum(height * width for height, width in group.grids)
        found["vision tower's activations"] = _vision_activations(settings["vision_config"], config, patches)
    if config.cluster.kind == "local" and config.cluster.placement == "separate" and rollout.engine == "hf":
        engine = engine_memory(
            shape,
            tensor_parallel_size=1,
            dtype=dtype,
            max_num_seqs=rollout.max_num_seqs,
            max_model_len=rollout.max_model_len,
        )
        found["engine"] = sum(engine.values())
    return found


def _vision_activations(vision: Mapping[str, Any], config: TrainConfig, patches: int) -> int:
    size, width, depth = DTYPE_BYTES[config.model.dtype], vision["hidden_size"], vision["depth"]
    block = activation_bytes(width, width, width, vision["intermediate_size"]) * size // 2 * patches
    return size * patches * width * depth + block if config.actor.gradient_checkpointing else block * depth


def too_large(config: TrainConfig, group: Group, memory_gib: float) -> str | None:
    """Why this run is not started on a GPU with `memory_gib`. None if it fits."""
    parts = estimated_memory(config, group)
    gib = sum(parts.values()) / 2**30
    if config.cluster.kind == "local" and config.rollout.engine == "vllm":
        gib += config.rollout.vllm.gpu_memory_utilization * memory_gib
    usable = MEMORY_SHARE * memory_gib
    if gib <= usable:
        return None
    listed = ", ".join(f"{name} {count / 2**30:.1f}" for name, count in parts.items())
    return f"does not fit: needs about {gib:.1f} GiB ({listed}); usable are {usable:.1f} of {memory_gib:.1f} GiB"
