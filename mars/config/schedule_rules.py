"""Rules between settings of the order of sampling and update (`rollout.schedule`)."""

from __future__ import annotations

from mars.config.rules import Rule

_SYNCHRONOUS = "synchronous"


def _separate_processes(schedule: str, cluster: str, placement: str) -> tuple[str, str] | None:
    if schedule == _SYNCHRONOUS:
        return None
    if cluster == "local":
        wrong = "cluster.kind=local has engine and trainer in one process, so that nothing can overlap"
        return wrong, "give synchronous, or cluster=ray"
    if placement == "colocated":
        wrong = "cluster.placement=colocated has one of engine and trainer on the GPUs at a time"
        return wrong, "give synchronous, or cluster.placement=separate"
    return None


def _trainer_has_newer_weights(schedule: str, placement: str, coefficient: float) -> tuple[str, str] | None:
    if schedule != _SYNCHRONOUS and placement == "reward" and coefficient > 0:
        wrong = "algorithm.kl_placement=reward needs the KL of the weights that sampled, and the trainer has newer ones"
        return wrong, "give synchronous, algorithm.kl_placement=loss or algorithm.kl_coefficient=0.0"
    return None


def _old_weights_are_kept(transfer: str, schedule: str) -> tuple[str, str] | None:
    if schedule != _SYNCHRONOUS and transfer != "object_store":
        wrong = (
            "with rollout.schedule=asynchronous an engine that is lost while it samples needs the weights it had, and "
            "the ranks, which would send them, are changing theirs"
        )
        return wrong, "give object_store, which keeps them"
    return None


def _bound_of_staleness(bound: int | None, schedule: str, selection: str) -> tuple[str, str] | None:
    if schedule == _SYNCHRONOUS:
        if bound is None:
            return None
        wrong = (
            "rollout.schedule=synchronous samples with the weights that it trains; only carried prompts are older, by 1"
        )
        return wrong, "give null, or schedule=asynchronous"
    if bound is None:
        wrong = "rollout.schedule=asynchronous needs a bound"
        return wrong, "give 1, and algorithm.importance_cap=2.0; or choose all three by schedule=asynchronous"
    if bound == 2 and selection == "all":
        wrong = "algorithm.selection=all carries no prompts, so that no response is older than 1"
        return wrong, "give 1, or algorithm.selection=nonzero_advantage"
    return None


SCHEDULE_RULES = (
    Rule(("rollout.schedule", "cluster.kind", "cluster.placement"), _separate_processes),
    Rule(("rollout.schedule", "algorithm.kl_placement", "algorithm.kl_coefficient"), _trainer_has_newer_weights),
    Rule(("rollout.weight_transfer", "rollout.schedule"), _old_weights_are_kept),
    Rule(("rollout.max_staleness", "rollout.schedule", "algorithm.selection"), _bound_of_staleness),
)
