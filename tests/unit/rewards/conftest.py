from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mars.types import RewardInput

MakeItem = Callable[..., RewardInput]


@pytest.fixture(scope="session")
def make_item() -> MakeItem:
    """A RewardInput with the fields that matter to the test."""

    def make(
        response: str,
        truth: str = "",
        truth_size: tuple[int, int] | None = None,
        response_size: tuple[int, int] | None = None,
        **extra_info: Any,
    ) -> RewardInput:
        return RewardInput("test", None, response, truth, truth_size, response_size, extra_info)

    return make
