"""A reward function's parts and those that mars adds cannot be mistaken for each other."""

from __future__ import annotations

import pytest

from mars.algorithms.penalties import KL_PART, OVERLONG_PART
from mars.rewards.contract import ADDED_PARTS
from mars.rewards.functions import as_result
from mars.types import RewardResult


def test_the_names_are_those_of_the_penalties():
    assert set(ADDED_PARTS) == {KL_PART, OVERLONG_PART}


@pytest.mark.parametrize("part", ADDED_PARTS)
def test_a_function_that_uses_one_is_told(part):
    assert part in as_result({"score": 1.0, part: 0.5}).failed
    assert part in as_result(RewardResult(1.0, 1.0, {part: 0.5})).failed
    assert as_result({"score": 1.0, f"my_{part}": 0.5}).failed is None
