"""Rules between the settings that say where engine and trainer run."""

from __future__ import annotations

from mars.config.rules import Rule


def _engine_can_sleep(placement: str, engine: str, device: str) -> tuple[str, str] | None:
    if placement == "colocated" and device == "cpu" and engine == "vllm":
        wrong = "vLLM cannot sleep on a CPU, so it would keep its memory while the trainer updates"
        return wrong, "give separate, or rollout=hf"
    return None


def _ranks_of_engines(ranks: int, engines: int, gpus: int, placement: str, kind: str) -> tuple[str, str] | None:
    if placement == "colocated" and kind == "ray" and ranks != engines * gpus:
        on = f"the {engines * gpus} GPUs of the engines (rollout.num_workers={engines} x "
        wrong = f"cluster.placement=colocated has one rank on each of {on}rollout.tensor_parallel_size={gpus})"
        return wrong, f"give {engines * gpus}, or other numbers of engines"
    return None


def _nodes_to_spread_over(strategy: str, kind: str) -> tuple[str, str] | None:
    if strategy == "spread" and kind == "local":
        return "cluster.kind=local runs everything in one process", "give pack, or cluster=ray"
    return None


PLACEMENT_RULES = (
    Rule(("cluster.node_strategy", "cluster.kind"), _nodes_to_spread_over),
    Rule(("cluster.placement", "rollout.engine", "cluster.device"), _engine_can_sleep),
    Rule(
        (
            "actor.num_workers",
            "rollout.num_workers",
            "rollout.tensor_parallel_size",
            "cluster.placement",
            "cluster.kind",
        ),
        _ranks_of_engines,
    ),
)
