"""How many examples a property test tries: all in `.ci/run` (`--hypothesis-profile=full`), a fifth in other runs."""

from __future__ import annotations

from typing import Any

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
