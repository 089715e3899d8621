"""Rules between settings of the policy's weights: which are trained, and how they get to the engines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from mars.config.problem import Problem
from mars.config.rules import Rule


def _part_is_trained(frozen: list[str]) -> tuple[str, str] | None:
    if {"vision", "projector", "language"} <= set(frozen):
        return "nothing is left to train", "leave out a part"
    return None


def _adapters_alone(section: str, frozen: list[str], rank: int) -> tuple[str, str] | None:
    if frozen and rank:
        wrong = f"with adapters ({section}.lora.rank={rank}) only they are trained"
        return wrong, f"give [], and choose {section}.lora.parts"
    return None


def unused_adapter_settings(
    given: Collection[str], values: Mapping[str, Any], shipped: Mapping[str, Any]
) -> Iterator[Problem]:
    """Settings of adapters that the command line or a file sets without effect, because lora.rank is 0.

    given: keys that the command line sets. values: dotted key -> value of all settings. shipped: the defaults of the
        settings of adapters.
    """
    for key, default in sorted(shipped.items()):
        section, _, name = key.partition(".lora.")
        is_set = key in given or values[key] != default
        if name != "rank" and is_set and values[f"{section}.lora.rank"] == 0:
            yield Problem(key, f"has no effect with {section}.lora.rank=0", "set the rank to 16, say", values[key])


def _groups_divide_ranks(section: str, fsdp_size: int | None, ranks: int) -> tuple[str, str] | None:
    if fsdp_size is not None and ranks % fsdp_size:
        return f"does not divide {section}.num_workers={ranks}", "give a divisor, such as the GPUs of a node, or null"
    return None


def _sent_between_processes(
    transfer: str, cluster: str, placement: str, device: str, engine: str, tensor_parallel: int
) -> tuple[str, str] | None:
    if transfer == "object_store":
        return None
    if cluster == "local":
        return "cluster.kind=local hands weights over within one process", "give object_store, or cluster=ray"
    if transfer == "broadcast" and placement == "colocated":
        wrong = "cluster.placement=colocated has both ends on one GPU, which NCCL cannot connect"
        return wrong, "give object_store, or cuda_ipc on GPUs"
    if transfer == "cuda_ipc" and (placement != "colocated" or device != "cuda"):
        wrong = "a rank can share only memory of a GPU that the engine has too"
        return wrong, "give object_store or broadcast, or cluster.placement=colocated on GPUs"
    if engine.startswith("scripted"):
        return f"rollout.engine={engine} takes no weights", "give object_store"
    if tensor_parallel != 1:
        return f"cannot reach the {tensor_parallel} processes of an engine with tensor parallelism", "give object_store"
    return None


SFT_WEIGHT_RULES = (
    Rule(("sft.freeze",), _part_is_trained),
    Rule(("sft.freeze", "sft.lora.rank"), partial(_adapters_alone, "sft")),
    Rule(("sft.fsdp_size", "sft.num_workers"), partial(_groups_divide_ranks, "sft")),
)
WEIGHT_RULES = (
    Rule(("actor.fsdp_size", "actor.num_workers"), partial(_groups_divide_ranks, "actor")),
    Rule(("actor.freeze",), _part_is_trained),
    Rule(("actor.freeze", "actor.lora.rank"), partial(_adapters_alone, "actor")),
    Rule(
        (
            "rollout.weight_transfer",
            "cluster.kind",
            "cluster.placement",
            "cluster.device",
            "rollout.engine",
            "rollout.tensor_parallel_size",
        ),
        _sent_between_processes,
    ),
)
