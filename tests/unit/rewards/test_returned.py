"""What counts as a number in what a user's reward function returned."""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from mars.rewards.returned import as_result, as_results
from mars.types import RewardResult


@pytest.mark.parametrize("reason", ["", " \n"])
def test_a_failure_without_a_reason_gets_one(reason: str) -> None:
    assert as_result(RewardResult(1.0, 1.0, {}, failed=reason)).failed == "the function gave no reason"
    assert as_result(RewardResult(1.0, 1.0, {}, failed="no ruler")).failed == "no ruler"


def test_numpy_numbers_are_numbers() -> None:
    assert as_result(np.float32(0.5)) == RewardResult(0.5, 0.5, {})
    assert as_result(np.int64(1)) == RewardResult(1.0, 1.0, {})
    assert type(as_result(np.float64(0.5)).score) is float
    assert as_result(np.float32("nan")).failed is not None


# All of these are 1 for float().
ONES = [
    np.bool_(True),
    np.array(1.0),
    np.array(1, dtype=np.uint8),
    np.array(True),
    np.float16(1),
    torch.tensor(1.0),
    torch.tensor(1),
    torch.tensor(True),
    torch.tensor(1.0, dtype=torch.bfloat16),
    torch.tensor(1.0, requires_grad=True),
    (torch.tensor(0.5, requires_grad=True) * 2),
    np.longdouble(1),
    np.array(Fraction(1)),
    Decimal("1"),
    Fraction(2, 2),
    IntEnum("Grade", [("PASS", 1)]).PASS,
]


@pytest.mark.parametrize("one", ONES, ids=repr)
def test_scalars_of_numpy_and_torch_are_numbers_wherever_a_number_is_wanted(one: Any) -> None:
    assert as_result(one) == RewardResult(1.0, 1.0, {})
    expected = RewardResult(0.5, 1.0, {"acc": 1.0, "exact": 1.0})
    assert as_result({"score": 0.5, "acc": one, "exact": one}) == expected  # a part that is a number is never lost
    assert as_result(RewardResult(0.5, one, {"acc": one, "exact": one})) == expected
    numbers = [result.score for result in as_results([one, 0.5], 2)]
    assert (numbers, set(map(type, numbers))) == ([1.0, 0.5], {float})


@pytest.mark.parametrize("unit", ["generic", "s", "ns", "D"])
@pytest.mark.parametrize("kind", [np.timedelta64, np.datetime64])
def test_a_time_of_numpy_is_no_number(kind: Any, unit: str) -> None:
    """Without a unit, and in nanoseconds, `item()` gives an integer."""
    if unit == "generic":
        value = np.timedelta64(1) if kind is np.timedelta64 else np.datetime64("NaT")
    else:
        value = kind(1, unit)
    for one in (value, np.array(value)):
        assert "score is not a number; got " in str(as_result(one).failed)
        assert as_result({"score": 0.5, "seconds": one}) == RewardResult(0.5, 0.5, {})  # as any other field


def test_an_accuracy_of_none_leaves_the_other_name() -> None:
    assert as_result({"score": 1.0, "accuracy": None, "acc": 0.5}).accuracy == 0.5
    assert as_result({"score": 1.0, "accuracy": 0.0, "acc": 0.5}) == RewardResult(
        1.0, 0.0, {"accuracy": 0.0, "acc": 0.5}
    )
    assert as_result({"score": 0.25, "accuracy": None, "acc": None}).accuracy == 0.25


def test_one_value_that_is_none_does_not_fail_the_list() -> None:
    values = [1.0, torch.ones((), device="meta"), Decimal("sNaN"), np.timedelta64(1)]
    assert [result.failed is None for result in as_results(values, 4)] == [True, False, False, False]


def test_true_and_false_are_numbers_in_accuracies_and_parts() -> None:
    assert as_result({"score": 0.5, "acc": False, "exact": True}) == RewardResult(0.5, 0.0, {"acc": 0.0, "exact": 1.0})
    assert as_result(RewardResult(0.5, True, {"exact": True})) == RewardResult(0.5, 1.0, {"exact": 1.0})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "score is not a number; got bool True; return float(…) of it"),
        (np.array([0.5]), "score is not a number; got ndarray of shape [1]; return its only value"),
        (torch.ones(2, 1), "score is not a number; got Tensor of shape [2, 1]"),
        (np.array("1"), "score is not a number; got str '1'; return float(…) of it"),
        ("0.5", "score is not a number; got str '0.5'; return float(…) of it"),
        (b"1", "score is not a number; got bytes b'1'; return float(…) of it"),
        (np.str_("1"), "score is not a number; got str '1'; return float(…) of it"),
        ([1.0], "score is not a number; got list [1.0]; return its only value"),
        (torch.ones(1, 1), "score is not a number; got Tensor of shape [1, 1]; return its only value"),
        (None, "score is not a number; got NoneType None"),
        (torch.ones((), device="meta"), "score is not a number; got Tensor tensor(..., device='meta', size=())"),
        (np.array(None), "score is not a number; got NoneType None"),
        (Decimal("sNaN"), "score is not a finite number; got sNaN"),
        (Fraction(10**400), "score is not a finite number; got one of Fraction beyond the range of float"),
        (np.array(1j), "score is not a number; got complex 1j"),
        (torch.tensor(float("inf")), "score is not a finite number; got inf"),
        (np.array(np.nan), "score is not a finite number; got nan"),
        (np.ma.masked, "score is not a number; got MaskedConstant masked"),
        ({"overall": 0.5, "format": 1.0}, "a mapping without 'score'; got overall, format; name the score 'score'"),
        ({}, "a mapping without 'score'; got none; name the score 'score'"),
        (Decimal("NaN"), "score is not a finite number; got NaN"),
        ({"score": 1.0, "acc": np.array(np.nan)}, "accuracy is not a finite number; got nan"),
        ({"score": 1.0, "exact": torch.tensor(float("nan"))}, "exact is not a finite number; got nan"),
    ],
)
def test_what_is_not_one_finite_number_is_refused(value: Any, reason: str) -> None:
    assert as_result(value).failed == reason


@pytest.mark.parametrize("values", [np.array([1.0, 0.5]), torch.tensor([1.0, 0.5]), (np.float32(1), 0.5)], ids=repr)
def test_the_scores_of_several_answers_may_be_an_array(values: Any) -> None:
    assert as_results(values, 2) == [RewardResult(1.0, 1.0, {}), RewardResult(0.5, 0.5, {})]
    assert "want a list of 3 values" in str(as_results(values, 3)[0].failed)
