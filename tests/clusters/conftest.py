"""Fixtures of the tests with several Ray nodes."""

from tests.integration.conftest import workshop

__all__ = ["workshop"]
