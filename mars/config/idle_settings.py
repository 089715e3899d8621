"""Settings of the command line that change nothing, because another setting switches off what reads them.

Only what the command line sets to another value than the default counts. Files are left alone: an experiment may set
what a variant of it switches off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mars.config.problem import Problem, shown


@dataclass(frozen=True)
class Idle:
    """`key` changes nothing if `is_idle` is true of the values of `switches`, in order.

    do: what to do. off: values of `key` that ask for nothing, and are accepted.
    """

    key: str
    switches: tuple[str, ...]
    is_idle: Callable[..., bool]
    do: str
    off: tuple[Any, ...] = ()


def _is_empty(*values: Any) -> bool:
    return not any(values)


_DIVIDE = "leave it out, or divide by the standard deviation (algorithm.normalize_std=true)"
_PENALISE = "set algorithm.kl_coefficient above 0, or leave it out"
_HELD_OUT = "set data.eval_files, or leave it out"

_IDLE = (
    # A rule of recipe.advantage gets the standard deviation, whether mars divides by it or not.
    Idle("algorithm.unbiased_std", ("algorithm.normalize_std", "recipe.advantage"), _is_empty, _DIVIDE),
    Idle("algorithm.epsilon", ("algorithm.normalize_std",), _is_empty, _DIVIDE),
    Idle("algorithm.overlong_factor", ("algorithm.overlong_buffer_tokens",), _is_empty, "set that, or leave this out"),
    Idle("algorithm.kl_placement", ("algorithm.kl_coefficient",), _is_empty, _PENALISE),
    # A signal of a shaping can be the KL to a reference model that only reference_every loads.
    Idle("algorithm.kl_estimator", ("algorithm.kl_coefficient", "algorithm.reference_every"), _is_empty, _PENALISE),
    Idle("evaluation.every", ("data.eval_files",), _is_empty, _HELD_OUT, off=(0,)),
    Idle("sft.eval_every", ("data.eval_files",), _is_empty, _HELD_OUT, off=(0,)),
    Idle(
        "rollout.weight_bucket_bytes",
        ("rollout.weight_transfer",),
        lambda transfer: transfer == "object_store",
        "give broadcast or cuda_ipc, or leave it out",
    ),
    Idle(
        "tracking.rollout_prompts",
        ("tracking.rollouts_every",),
        _is_empty,
        "set that to 1 or more, or leave this out",
    ),
    Idle(
        "recipe.transforms",
        ("recipe.shaping", "recipe.requests", "recipe.tokens"),
        _is_empty,
        "set one of these, whose hooks can use transforms, or leave it out",
    ),
)


def idle_settings(
    given: Collection[str], values: Mapping[str, Any], defaults: Callable[[], Mapping[str, Any]]
) -> Iterator[Problem]:
    """The settings that the command line sets without effect.

    given: keys that it sets. values: dotted key -> value of all settings. defaults: the shipped values, called only if
        one is needed.
    """
    for idle in _IDLE:
        key = idle.key
        is_given = key in given or any(name.startswith(f"{key}.") for name in given)
        if not is_given or key not in values or values[key] in idle.off:
            continue
        switches = {name: values[name] for name in idle.switches}
        if idle.is_idle(*switches.values()) and values[key] != defaults()[key]:
            off = " and ".join(f"{name}={shown(value)}" for name, value in switches.items())
            yield Problem(key, f"has no effect with {off}", idle.do, values[key])
