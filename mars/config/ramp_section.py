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
KEYS = (*(f"algorithm.{name}" for name in OF_ALGORITHM), *(f"rollout.{name}" for name in OF_ROLLOUT))
_LOADED_IF_POSITIVE = ("algorithm.kl_coefficient", "algorithm.entropy_coefficient")


class Ramp(Section):
    """One number that goes from `first` to `last`, the same from then on.

    key: one of KEYS, or `recipe.settings.<file>.<name>`. start, steps: of the run. slope: of a sigmoid, else None.
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

        constant  first before `start`, last from it on
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


def ramp_problems(
    ramps: Sequence[Ramp], values: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Sequence[Problem]]
) -> Iterator[Problem]:
    """What is wrong with the ramps. values: dotted key -> value of the composed configuration. check: such values ->
    what is wrong with them. Every number between `first` and `last` is valid if these two are."""
    keys = [ramp.key for ramp in ramps]
    for ramp in ramps:
        where = f"ramps: {ramp.key}"
        if ramp.key.startswith(SETTINGS):
            if ramp.key.count(".") != 3:
                yield Problem(where, "names no setting of a file", f"give {SETTINGS}<file>.<name>")
        elif ramp.key not in KEYS:
            yield Problem(where, "cannot change during a run", f"give {', '.join(KEYS)} or {SETTINGS}<file>.<name>")
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
