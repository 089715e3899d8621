"""Rules between settings of the objective: importance weights, parts of the reward, updates of the KL reference."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from mars.config.rules import Rule
from mars.rewards.built_in import BUILT_IN, is_built_in
from mars.rewards.contract import ADDED_PARTS


def _level_of_weights(level: str, cap: float | None) -> tuple[str, str] | None:
    if level != "token" and cap is None:
        return (
            "has no effect without algorithm.importance_cap",
            "set that to 2.0, say, or give token",
        )
    return None


def _product_of_a_nucleus(level: str, cap: float | None, top_p: float, top_k: int) -> tuple[str, str] | None:
    if level == "sequence" and cap is not None and (top_p < 1 or top_k > 0):
        return (
            f"with rollout.top_p={top_p} and rollout.top_k={top_k} the engine's probabilities are above the trainer's, "
            "so that the product over a long response is near 0",
            "give sequence_mean or token, or rollout.top_p=1.0 and rollout.top_k=0",
        )
    return None


def _mode_of_weights(mode: str, cap: float | None) -> tuple[str, str] | None:
    if mode == "mask" and cap is None:
        return "has no effect without algorithm.importance_cap", "set that to 2.0, say, or give truncate"
    return None


def _cap_of_mask(cap: float | None, mode: str) -> tuple[str, str] | None:
    if mode == "mask" and cap is not None and cap < 1:
        return (
            "algorithm.importance_mode=mask would leave out the weight 1, where engine and trainer agree",
            "give 1 or more",
        )
    return None


def _floor_of_mask(floor: float | None, mode: str, top_p: float) -> tuple[str, str] | None:
    if floor is None:
        return None
    if mode != "mask":
        return f"has no effect with algorithm.importance_mode={mode}", "set it to null, or importance_mode=mask"
    if floor > top_p:
        return (
            f"above rollout.top_p={top_p}: it would leave out weights where engine and trainer agree",
            f"give at most {top_p}",
        )
    return None


def _weights_of_parts(weights: Mapping[str, float]) -> tuple[str, str] | None:
    added = [name for name in weights if name in ADDED_PARTS]
    if added:
        return f"{', '.join(added)} is added to the advantage without a weight", "leave it out"
    useless = [name for name, weight in weights.items() if weight == 0 or not isfinite(weight)]
    if useless:
        return f"the weight of {', '.join(useless)} is 0 or not finite", "give another number, or leave the part out"
    return None


def _parts_of_built_in(
    weights: Mapping[str, float], function: str, functions: Mapping[str, str]
) -> tuple[str, str] | None:
    for name in functions.values() or [function]:
        missing = [part for part in weights if is_built_in(name) and part not in BUILT_IN[name].parts]
        if missing:
            has = ", ".join(BUILT_IN[name].parts)
            return f"reward {name} has no part {', '.join(missing)}", f"name parts that every reward has; {name}: {has}"
    return None


def _std_of_parts(normalize_std: bool, weights: Mapping[str, float]) -> tuple[str, str] | None:
    if weights and not normalize_std:
        return (
            "algorithm.part_weights divides each part by its standard deviation",
            "give true, or algorithm.part_weights={}",
        )
    return None


def _scorer_of_parts(scorer: str, weights: Mapping[str, float]) -> tuple[str, str] | None:
    if weights and scorer == "compat":
        return (
            "has no effect with algorithm.part_weights: both scorers give the same parts",
            "give strict, and weight the part compat instead of accuracy",
        )
    return None


def _updated_reference(every: int | None, reference: str | None, lora_rank: int) -> tuple[str, str] | None:
    if every is None:
        return None
    if not reference:
        return "algorithm.kl_reference is empty: there is no model to update", "set it, or give null"
    if lora_rank:
        return "LoRA adapters have no weights of the whole policy to copy", "give null, or actor.lora.rank=0"
    return None


def _decay_of_updates(decay: float | None, every: int | None) -> tuple[str, str] | None:
    if decay is not None and every is None:
        return "has no effect with algorithm.reference_every=null", "set it to null, or reference_every to 1, say"
    return None


ALGORITHM_RULES = (
    Rule(("algorithm.reference_every", "algorithm.kl_reference", "actor.lora.rank"), _updated_reference),
    Rule(("algorithm.reference_decay", "algorithm.reference_every"), _decay_of_updates),
    Rule(("algorithm.part_weights",), _weights_of_parts),
    Rule(("algorithm.part_weights", "reward.function", "reward.functions"), _parts_of_built_in),
    Rule(("algorithm.normalize_std", "algorithm.part_weights"), _std_of_parts),
    Rule(("reward.scorer", "algorithm.part_weights"), _scorer_of_parts),
    Rule(("algorithm.importance_level", "algorithm.importance_cap"), _level_of_weights),
    Rule(
        ("algorithm.importance_level", "algorithm.importance_cap", "rollout.top_p", "rollout.top_k"),
        _product_of_a_nucleus,
    ),
    Rule(("algorithm.importance_mode", "algorithm.importance_cap"), _mode_of_weights),
    Rule(("algorithm.importance_cap", "algorithm.importance_mode"), _cap_of_mask),
    Rule(("algorithm.importance_floor", "algorithm.importance_mode", "rollout.top_p"), _floor_of_mask),
)
