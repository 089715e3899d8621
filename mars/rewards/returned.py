"""What a reward function returned, as results. Recognises numbers of NumPy and torch without importing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from mars.rewards.contract import ADDED_PARTS, failed_result
from mars.types import MAX_SCORE, RewardResult


def as_result(value: Any) -> RewardResult:
    """The result for `value`, which a reward function returned for one answer. `value` must be one of the following,
    with finite numbers, a score within -MAX_SCORE to MAX_SCORE, and, if it has an accuracy, one in [0, 1]. No part may
    have a name of `ADDED_PARTS`. Anything else gives `failed` with the reason.

    - a number (int, float, NumPy's, an array or tensor without dimensions): the score; accuracy is the score clipped
      to [0, 1];
    - a mapping with "score": "score" is the score. "accuracy" or, if that is missing, "acc" is the accuracy; without
      both it is the clipped score. All numbers but the score are parts, the accuracy too. The rest is ignored;
    - a RewardResult: itself.

    An accuracy and a part may be True or False, which count 1 and 0. A score that is Python's True or False is refused,
    because a function that returns it is probably a check and not a reward.
    """
    if isinstance(value, RewardResult):
        if value.failed is not None:
            reason = _exact(str(value.failed))
            return failed_result(reason if reason.strip() else "the function gave no reason")
        score, accuracy = value.score, _without_bool(value.accuracy)
        parts = {_part_name(key): _without_bool(number) for key, number in value.parts.items()}
    elif isinstance(value, Mapping) and "score" in value:
        score = value["score"]
        accuracy = _without_bool(next((value[key] for key in ("accuracy", "acc") if value.get(key) is not None), None))
        others = {_part_name(key): _without_bool(entry) for key, entry in value.items() if key != "score"}
        parts = {key: entry for key, entry in others.items() if _is_number(entry)}
    elif isinstance(value, Mapping):
        names = ", ".join(_part_name(key) for key in value)[:80] or "none"
        return failed_result(f"a mapping without 'score'; got {ascii(names)[1:-1]}; name the score 'score'")
    else:
        score, accuracy, parts = value, None, {}
    score = _plain(score)
    numbers = [("score", score), *([] if accuracy is None else [("accuracy", accuracy)]), *parts.items()]
    for key, number in numbers:
        problem = _not_finite(number)
        if problem:
            return failed_result(f"{key} {problem}")
    if not parts.keys().isdisjoint(ADDED_PARTS):
        return failed_result(f"a part has a name that mars reserves; got {sorted(parts)}; avoid {ADDED_PARTS}")
    score = float(score)
    if abs(score) > MAX_SCORE:
        return failed_result(f"score is not in [-{MAX_SCORE:g}, {MAX_SCORE:g}]; got {score}")
    accuracy = min(max(score, 0.0), 1.0) if accuracy is None else float(accuracy)
    if not 0 <= accuracy <= 1:
        return failed_result(f"accuracy is not in [0, 1]; got {accuracy}")
    return RewardResult(score, accuracy, {key: float(number) for key, number in parts.items()})


def as_results(values: Any, count: int) -> list[RewardResult]:
    """The results for `values`, which a user's function returned for `count` answers. `values` must be a list, a tuple,
    or an array or tensor of one dimension, with `count` entries. Otherwise each answer gets a failed result."""
    shape = _shape(values)
    if shape is not None and len(shape) == 1:
        values = list(values)
    if not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, list | tuple) else type(values).__name__
        return [failed_result(f"want a list of {count} values, one for each answer; got {got}")] * count
    return [as_result(value) for value in values]


def _plain(value: Any) -> Any:
    """The number in a scalar of NumPy, or in an array or tensor without dimensions; any other value unchanged.

    NumPy's True and False become 1.0 and 0.0. Values that are not numbers stay unchanged: a masked value and a date or
    duration of NumPy, even if `item()` gives a number for them; a tensor on the device "meta", which has no value.
    """
    if _shape(value) != () or not callable(getattr(value, "item", None)) or bool(getattr(value, "mask", False)):
        return value
    if _is_time(value):
        return value
    try:
        number = value.item()
    except (RuntimeError, ValueError):
        return value
    return float(number) if isinstance(number, bool) else number


def _without_bool(value: Any) -> Any:
    """`_plain`, with 1.0 and 0.0 for True and False."""
    value = _plain(value)
    return float(value) if isinstance(value, bool) else value


def _shape(value: Any) -> tuple[Any, ...] | None:
    """The shape of an array or tensor; None for other values."""
    shape = getattr(value, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else None  # torch's torch.Size is a tuple


def _part_name(key: Any) -> str:
    return _exact(key if isinstance(key, str) else str(key))


def _exact(text: str) -> str:
    """`text` as a plain str: it may be a member of an enumeration in a user's file, which the driver cannot load."""
    return str.__str__(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | Decimal) and not isinstance(value, bool) and not _is_time(value)


def _is_time(value: Any) -> bool:
    """Whether a value is a date or a duration of NumPy. Python's `numbers.Real` counts such a duration as a number."""
    return getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")


def _not_finite(number: Any) -> str | None:
    if not _is_number(number):
        shape = _shape(number)
        got = type(number).__name__ + (f" of shape {list(shape)}" if shape else f" {ascii(number)[:80]}")
        return f"is not a number; got {got}{_remedy(number, shape)}"
    try:
        return None if math.isfinite(number) else f"is not a finite number; got {number}"
    except OverflowError:
        return f"is not a finite number; got one of {type(number).__name__} beyond the range of float"
    except ValueError:  # a signalling NaN of Decimal
        return f"is not a finite number; got {number}"


def _remedy(value: Any, shape: tuple[Any, ...] | None) -> str:
    if isinstance(value, bool | str | bytes):
        return "; return float(…) of it"
    has_one = all(side == 1 for side in shape) if shape else isinstance(value, list | tuple) and len(value) == 1
    return "; return its only value" if has_one else ""
