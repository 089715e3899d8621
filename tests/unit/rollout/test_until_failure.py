"""An engine's weights end quietly where their transfer fails, and the failure comes afterwards."""

from __future__ import annotations

import pytest

from mars.errors import TransferError
from mars.rollout.until_failure import UntilFailure


def breaking(error):
    yield "a", 1
    raise error


def test_all_items_pass():
    weights = UntilFailure([("a", 1), ("b", 2)])
    assert list(weights) == [("a", 1), ("b", 2)]
    weights.check()


def test_a_failed_transfer_ends_them_and_is_raised_afterwards():
    weights = UntilFailure(breaking(TransferError("rank 0 has left")))
    assert list(weights) == [("a", 1)]
    assert list(weights) == []
    with pytest.raises(TransferError, match="rank 0 has left"):
        weights.check()


def test_what_is_not_taken_is_an_error():
    weights = UntilFailure([("a", 1), ("b", 2)])
    next(weights)
    with pytest.raises(RuntimeError, match="did not take all"):
        weights.check()


def test_other_errors_are_raised_at_once():
    with pytest.raises(KeyError):
        list(UntilFailure(breaking(KeyError("a"))))
