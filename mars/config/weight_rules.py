"""Rules between settings of the policy's weights: which are trained, and how they get to the engines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mars.config.problem import Problem
from mars.config.rules import Rule


def _part_is_trained(frozen: list[str]) -> tuple[str, str] | None:
    if {"vision", "projector", "language"} <= set(frozen):
        return "nothing is left to train", "leave out a part"
    return None


def _adapters_alone(frozen: list[str], rank: int) -> tuple[str, str] | None:
    if frozen and rank:
        return f"with adapters (actor.lora.rank={rank}) only they are trained", "give [], and choose actor.lora.parts"
    return None


def unused_adapter_settings(given: Collection[str], values: Mapping[str, Any]) -> Iterator[Problem]:
    """given: keys that the command line sets. values: of all keys. Without adapters, other settings have no effect."""
    for key in sorted(given):
        if key.startswith("actor.lora.") and key != "actor.lora.rank" and values["actor.lora.rank"] == 0:
            yield Problem(key, "has no effect with actor.lora.rank=0", "set the rank to 16, say", values[key])


def _groups_divide_ranks(fsdp_size: int | None, ranks: int) -> tuple[str, str] | None:
    if fsdp_size is not None and ranks % fsdp_size:
        return f"does not divide actor.num_workers={ranks}", "give a divisor, such as the GPUs of a node, or null"
    return None


def _broadcast_between_processes(
    transfer: str, cluster: str, placement: str, engine: str, tensor_parallel: int
) -> tuple[str, str] | None:
    if transfer != "broadcast":
        return None
    if cluster == "local":
        return "cluster.kind=local hands weights over within one process", "give object_store, or cluster=ray"
    if placement == "colocated":
        return "cluster.placement=colocated has both ends on one GPU, which NCCL cannot connect", "give object_store"
    if engine == "scripted":
        return "rollout.engine=scripted takes no weights", "give object_store"
    if tensor_parallel != 1:
        return f"cannot reach the {tensor_parallel} processes of an engine with tensor parallelism", "give object_store"
    return None


WEIGHT_RULES = (
    Rule(("actor.fsdp_size", "actor.num_workers"), _groups_divide_ranks),
    Rule(("actor.freeze",), _part_is_trained),
    Rule(("actor.freeze", "actor.lora.rank"), _adapters_alone),
    Rule(
        (
            "rollout.weight_transfer",
            "cluster.kind",
            "cluster.placement",
            "rollout.engine",
            "rollout.tensor_parallel_size",
        ),
        _broadcast_between_processes,
    ),
)
