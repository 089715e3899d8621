"""The checks of a model's folder, as `ModelCheck` makes them in one process."""

from __future__ import annotations

from mars.checks.architecture import check_architecture
from mars.checks.model import check_files


def check_model(path: str) -> None:
    """Raises SetupError."""
    check_files(path, "model.path")
    check_architecture(path, "model.path", trust_remote_code=False)
