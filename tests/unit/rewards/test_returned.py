"""What counts as a number in what a user's reward function returned."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from mars.rewards.returned import as_result, as_results
from mars.types import RewardResult


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
    Decimal("1"),
]


@pytest.mark.parametrize("one", ONES, ids=repr)
def test_scalars_of_numpy_and_torch_are_numbers_wherever_a_number_is_wanted(one: Any) -> None:
    assert as_result(one) == RewardResult(1.0, 1.0, {})
    expected = RewardResult(0.5, 1.0, {"acc": 1.0, "exact": 1.0})
    assert as_result({"score": 0.5, "acc": one, "exact": one}) == expected  # a part that is a number is never lost
    assert as_result(RewardResult(0.5, one, {"acc": one, "exact": one})) == expected
    numbers = [result.score for result in as_results([one, 0.5], 2)]
    assert (numbers, set(map(type, numbers))) == ([1.0, 0.5], {float})


def test_true_and_false_are_numbers_in_accuracies_and_parts() -> None:
    assert as_result({"score": 0.5, "acc": False, "exact": True}) == RewardResult(0.5, 0.0, {"acc": 0.0, "exact": 1.0})
    assert as_result(RewardResult(0.5, True, {"exact": True})) == RewardResult(0.5, 1.0, {"exact": 1.0})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "score is not a number; got bool True; return float(…) of it"),
        (np.array([0.5]), "score is not a number; got ndarray of shape [1]"),
        (torch.ones(2, 1), "score is not a number; got Tensor of shape [2, 1]"),
        (np.array("1"), "score is not a number; got str '1'"),
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
