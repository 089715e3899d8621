"""Rules between settings of the objective: importance weights."""

from __future__ import annotations

from mars.config.rules import Rule


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


ALGORITHM_RULES = (
    Rule(("algorithm.importance_level", "algorithm.importance_cap"), _level_of_weights),
    Rule(
        ("algorithm.importance_level", "algorithm.importance_cap", "rollout.top_p", "rollout.top_k"),
        _product_of_a_nucleus,
    ),
    Rule(("algorithm.importance_mode", "algorithm.importance_cap"), _mode_of_weights),
    Rule(("algorithm.importance_cap", "algorithm.importance_mode"), _cap_of_mask),
    Rule(("algorithm.importance_floor", "algorithm.importance_mode", "rollout.top_p"), _floor_of_mask),
)
