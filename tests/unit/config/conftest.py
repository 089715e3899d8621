from __future__ import annotations

import pytest

from mars.config import compose
from tests.quick_composition import quick_compose, real_compose


@pytest.fixture(autouse=True)
def hydra_composes(monkeypatch, quick_composition):
    """Every composition is Hydra's own; a test that asks for `quickly` uses the shortcut."""
    monkeypatch.setattr(compose, "_compose", real_compose)


@pytest.fixture
def quickly(monkeypatch, hydra_composes):
    """For many single values, of which each is checked after composing."""
    monkeypatch.setattr(compose, "_compose", quick_compose)
