"""`NEEDS` of a user's file: the values that settings of the run must have, or the hooks of the file do not work.

    NEEDS = {"algorithm.selection": "nonzero_advantage", "algorithm.kl_placement": ("loss", "reward")}

A tuple lists the values that are allowed for the key. If the entry is not a tuple, it is the only allowed value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from mars.config.fields import check_fields
from mars.config.keys import is_in, nearest
from mars.config.problem import Problem, shown
from mars.config.schema import TrainConfig
from mars.errors import ConfigError

CONSTANT = "NEEDS"


def check_needs(module: ModuleType, config: TrainConfig) -> None:
    """Raises ConfigError, with one line for each setting of `config` that has another value than `module` needs.

    It is also raised if `NEEDS` has a key that mars does not have, or a value that the key cannot have.
    """
    needs, where = getattr(module, CONSTANT, {}), f"{module.__file__}: {CONSTANT}"
    if not isinstance(needs, Mapping):
        raise ConfigError(f"{where} is no mapping; got {needs!r}; give {{dotted key: value}}")
    values = config.dotted()
    wrong = [f"{where}: {problem}" for problem in _impossible(needs, values)]
    problems = wrong or [str(problem) for problem in _unmet(needs, values, str(module.__file__))]
    if problems:
        raise ConfigError("\n".join(problems))


def allowed(value: Any) -> tuple[Any, ...]:
    """The values that an entry of `NEEDS` stands for.

    >>> allowed("all"), allowed(("all", "nonzero_advantage")), allowed([1, 2])
    (('all',), ('all', 'nonzero_advantage'), ([1, 2],))
    """
    return value if isinstance(value, tuple) else (value,)


def _impossible(needs: Mapping[Any, Any], values: Mapping[str, Any]) -> Iterator[Problem]:
    for key, value in needs.items():
        if key not in values:
            likely = nearest(str(key), values)
            yield Problem(
                str(key), "unknown key", f"did you mean {' or '.join(likely)}?" if likely else "docs/config.md has all"
            )
            continue
        if value == ():
            yield Problem(key, "an empty tuple", "give a value that the hooks work with")
        for one in allowed(value):
            _, problems = check_fields(TrainConfig, {**values, key: one})
            yield from (problem for problem in problems if problem.key == key)


def _unmet(needs: Mapping[str, Any], values: Mapping[str, Any], file: str) -> Iterator[Problem]:
    for key, value in needs.items():
        right = " or ".join(one if isinstance(one, str) else shown(one) for one in allowed(value))
        if values[key] not in allowed(value):
            yield Problem(key, f"not a value that the hooks of {file} work with", f"give {right}", got=values[key])
        for ramp in values["ramps"]:
            if is_in(ramp.key, key):
                yield Problem(
                    f"ramps: {ramp.key}", f"the hooks of {file} need {key}={right} in every step", "leave this ramp out"
                )
