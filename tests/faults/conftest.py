"""Fixtures of the integration tests."""

from tests.integration.conftest import workshop

__all__ = ["workshop"]
