"""A service that stands in for the judge model of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from tests.unit.rewards.judge_server import JudgeServer, judge_server


@contextmanager
def judge_of_recipe(module: ModuleType, patch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """The server that the functions of `module` ask while this lasts."""
    with judge_server() as server:
        for name, value in (("JUDGE_URL", server.url), ("JUDGE_MODEL", "a-judge"), ("NO_PROXY", "127.0.0.1")):
            patch.setenv(name, value)
        module.judge.cache_clear()
        yield server
        module.judge.cache_clear()
