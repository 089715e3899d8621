"""How many examples a test tries: all in `.ci/run`, fewer in other runs.

`.ci/run` gives `--hypothesis-profile=full` and runs the tests marked slow too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

_ALL = 100  # hypothesis' own number for a test that names none


def register_profiles() -> None:
    """Register "full" and "quick".

    Neither limits an example's time, because on a busy machine an example may take long. All other settings are
    hypothesis' own, whether a CI server runs the tests or not.
    """
    settings.register_profile("full", parent=settings(), deadline=None, max_examples=_ALL)
    settings.register_profile("quick", parent=settings(), deadline=None, max_examples=_ALL // 5)


def examples(number: int, **more: Any) -> settings:
    """Decorator: a property test that tries `number` examples in the profile "full", at least 5 in "quick"."""
    return settings(max_examples=max(min(number, 5), number * settings.default.max_examples // _ALL), **more)


def some(values: Iterable[Any], number: int) -> list[Any]:
    """All values for `pytest.mark.parametrize`: one for each test, or a tuple of several arguments.

    `number` of them, spread evenly, are tried in every run. The others are marked slow.
    """
    values = [value if isinstance(value, tuple) else (value,) for value in values]
    quick = {len(values) * i // number for i in range(number)}
    return [pytest.param(*value, marks=() if i in quick else pytest.mark.slow) for i, value in enumerate(values)]
