"""Rules for `rollout.max_staleness` together with other settings. Above 0, sampling runs ahead of the update."""

from __future__ import annotations

from mars.config.rules import Rule


def _separate_processes(staleness: int, cluster: str, placement: str) -> tuple[str, str] | None:
    if staleness == 0:
        return None
    if cluster == "local":
        wrong = "cluster.kind=local has engine and trainer in one process, so that nothing can overlap"
        return wrong, "give 0, or cluster=ray"
    if placement == "colocated":
        wrong = "cluster.placement=colocated has one of engine and trainer on the GPUs at a time"
        return wrong, "give 0, or cluster.placement=separate"
    return None


def _trainer_has_newer_weights(staleness: int, placement: str, coefficient: float) -> tuple[str, str] | None:
    if staleness and placement == "reward" and coefficient > 0:
        wrong = "algorithm.kl_placement=reward needs the KL of the weights that sampled, and the trainer has newer ones"
        return wrong, "give 0, algorithm.kl_placement=loss or algorithm.kl_coefficient=0.0"
    return None


def _old_weights_are_kept(transfer: str, staleness: int) -> tuple[str, str] | None:
    if staleness and transfer != "object_store":
        wrong = (
            "with schedule=asynchronous an engine that is lost while it samples needs the weights it had, and "
            "the ranks, which would send them, are changing theirs"
        )
        return wrong, "give object_store, which keeps them"
    return None


def _bound_of_staleness(bound: int, selection: str) -> tuple[str, str] | None:
    if bound == 2 and selection == "all":
        wrong = "algorithm.selection=all carries no prompts, so that no response is older than 1"
        return wrong, "give 1, or algorithm.selection=nonzero_advantage"
    return None


SCHEDULE_RULES = (
    Rule(("rollout.max_staleness", "cluster.kind", "cluster.placement"), _separate_processes),
    Rule(("rollout.max_staleness", "algorithm.kl_placement", "algorithm.kl_coefficient"), _trainer_has_newer_weights),
    Rule(("rollout.weight_transfer", "rollout.max_staleness"), _old_weights_are_kept),
    Rule(("rollout.max_staleness", "algorithm.selection"), _bound_of_staleness),
)
