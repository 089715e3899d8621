"""The list `ramps`: numbers that change while a run trains (docs/extend.md#numbers-that-change-during-a-run)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mars.config.numbers import NonNegativeInt, PositiveFloat, PositiveInt
from mars.config.problem import Problem
from mars.config.section import Section

SETTINGS = "recipe.settings."
OF_ALGORITHM = ("kl_coefficient", "clip_low", "clip_high", "entropy_coefficient")
OF_ROLLOUT = ("samples_per_prompt", "max_response_tokens", "temperature")
WEIGHTS = "data.weights."
KEYS = (*(f"algorithm.{name}" for name in OF_ALGORITHM), *(f"rollout.{name}" for name in OF_ROLLOUT))
_LOADED_IF_POSITIVE = ("algorithm.kl_coefficient", "algorithm.entropy_coefficient")


class Ramp(Section):
    """One number that goes from `first` to `last` and then stays at `last` (a sigmoid only comes close to both).

    key: one of KEYS, `data.weights.<number of the file, from 0>`, or `recipe.settings.<file>.<name>`.
    start: a step of the run. steps: a number of steps; `at` has the formulas. slope: of a sigmoid, else None.
    """

    key: str
    first: float
    last: float
    start: NonNegativeInt
    steps: PositiveInt
    shape: Literal["constant", "linear", "cosine", "sigmoid"]
    slope: PositiveFloat | None

    def at(self, step: int) -> float:
        """The value in a step. With u = (step - start) / steps, bounded to 0 .. 1:

        constant  `first` before the step `start`, `last` from this step on
        linear    first + (last - first) u
        cosine    last + (first - last) (1 + cos(pi u)) / 2
        sigmoid   first + (last - first) / (1 + exp(-slope (step - start) / steps)); `start` is its middle
        """
        u = min(max((step - self.start) / self.steps, 0.0), 1.0)
        match self.shape:
            case "constant":
                share = float(step >= self.start)
            case "linear":
                share = u
            case "cosine":
                share = (1 - math.cos(math.pi * u)) / 2
            case "sigmoid":
                assert self.slope is not None  # `ramp_problems`
                x = self.slope * (step - self.start) / self.steps
                share = 0.5 * (1 + math.tanh(x / 2))  # 1 / (1 + exp(-x)), which cannot overflow
        # Not first + share * (last - first), which may miss `last` by a rounding and break its bounds.
        return (1 - share) * self.first + share * self.last


def ramped_settings(file: str, ramps: Sequence[Ramp]) -> dict[str, Ramp]:
    """Name of a setting of a hook file -> its ramp. file: the hook file's name in `recipe.settings`."""
    prefix = f"{SETTINGS}{file}."
    return {ramp.key.removeprefix(prefix): ramp for ramp in ramps if ramp.key.startswith(prefix)}


def weights_at(
    weights: Sequence[float], ramps: Sequence[Ramp]
) -> tuple[Callable[[int], list[float]], list[float], list[float]] | None:
    """(function from the number of a round to the data weights of its step, lowest weights, highest weights).

    All weights are lists with one number for each file. None if no ramp changes a data weight. Round i, from 0, belongs
    to step i + 1, because a step has one round (`ramp_problems`).
    """
    of_files = {ramp.key.removeprefix(WEIGHTS): ramp for ramp in ramps if ramp.key.startswith(WEIGHTS)}
    if not of_files:
        return None
    pairs = [(weight, of_files.get(str(number))) for number, weight in enumerate(weights)]
    ends = [(weight,) if ramp is None else (ramp.first, ramp.last) for weight, ramp in pairs]

    def at(round: int) -> list[float]:
        return [weight if ramp is None else ramp.at(round + 1) for weight, ramp in pairs]

    return at, [min(some) for some in ends], [max(some) for some in ends]


def ramp_problems(
    ramps: Sequence[Ramp], values: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Sequence[Problem]]
) -> Iterator[Problem]:
    """What is wrong with the ramps. values: dotted key -> value of the composed configuration. check: returns
    what is wrong with such a mapping. Called with `first` and with `last` as the key's value: if both are valid, so
    are all numbers between them."""
    keys = [ramp.key for ramp in ramps]
    for ramp in ramps:
        where = f"ramps: {ramp.key}"
        if ramp.key.startswith(SETTINGS):
            if ramp.key.count(".") != 3:
                yield Problem(where, "names no setting of a file", f"give {SETTINGS}<file>.<name>")
        elif ramp.key.startswith(WEIGHTS):
            yield from _of_weight(ramp, where, values, check)
        elif ramp.key not in KEYS:
            allowed = ", ".join((*KEYS, f"{WEIGHTS}<number>"))
            yield Problem(where, "cannot change during a run", f"give {allowed} or {SETTINGS}<file>.<name>")
        if keys.count(ramp.key) > 1:
            yield Problem(where, "comes twice", "give one ramp for each key")
        if (ramp.slope is None) == (ramp.shape == "sigmoid"):
            do = "give a number > 0" if ramp.slope is None else "set it to null"
            yield Problem(where, f"shape {ramp.shape} and slope do not go together", do, got=ramp.slope)
        if ramp.key in KEYS:
            yield from _of_key(ramp, where, values, check)


def _of_key(
    ramp: Ramp, where: str, values: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Sequence[Problem]]
) -> Iterator[Problem]:
    composed = values[ramp.key]
    if ramp.key in _LOADED_IF_POSITIVE and composed == 0:
        yield Problem(where, f"{ramp.key} is 0, so that nothing is loaded for it", f"set {ramp.key} to a number > 0")
        return
    if ramp.key == "rollout.max_response_tokens" and values["algorithm.overlong_buffer_tokens"] is not None:
        yield Problem(where, "the overlong penalty counts from the composed length", "leave out one of the two")
        return
    for value in dict.fromkeys((ramp.first, ramp.last)):
        if type(composed) is int and not value.is_integer():
            yield Problem(where, "not an integer", "give integers; those in between are rounded", got=value)
        elif ramp.key == "rollout.max_response_tokens" and value > composed:
            yield Problem(where, f"longer than {ramp.key}={composed}", f"give at most {composed}", got=value)
        else:
            for problem in check({**values, ramp.key: type(composed)(value)}):
                yield Problem(where, f"not valid ({problem})", "give other values", got=value)


def _of_weight(
    ramp: Ramp, where: str, values: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Sequence[Problem]]
) -> Iterator[Problem]:
    """The problems of a ramp of a data weight. Weights are looked up by the number of the round, but a ramp counts
    steps, so each step must have exactly one round."""
    weights, number = values["data.weights"], ramp.key.removeprefix(WEIGHTS)
    if weights is None or not number.isdecimal() or int(number) >= len(weights):
        do = "set data.weights to one weight for each file, and give the number of one of them, from 0"
        yield Problem(where, "no such weight", do, got=weights)
    elif values["algorithm.max_rounds"] > 1:
        yield Problem(
            where, "a step may have several rounds of prompts", "set algorithm.selection=all, or leave it out"
        )
    elif values["recipe.sampler"] is not None:
        yield Problem(where, "a sampler chooses the prompts", "leave out one of the two")
    else:
        for value in dict.fromkeys((ramp.first, ramp.last)):
            changed = [value if i == int(number) else weight for i, weight in enumerate(weights)]
            for problem in check({**values, "data.weights": changed}):
                yield Problem(where, f"not valid ({problem})", "give other values", got=value)
