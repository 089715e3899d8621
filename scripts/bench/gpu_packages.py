"""Which packages scripts/gpu.sh finds: `python -m scripts.bench.gpu_packages`. Imports none of them.

Prints one line. Exit code 4: a package is missing that tests/gpu or scripts/bench.py gpu needs.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from mars.errors import SetupError

# Name in an import -> name of the package.
NEEDED = {
    "torch": "torch", "torchvision": "torchvision", "transformers": "transformers", "tokenizers": "tokenizers",
    "safetensors": "safetensors", "numpy": "numpy", "scipy": "scipy", "PIL": "pillow", "pyarrow": "pyarrow",
    "hydra": "hydra-core", "omegaconf": "omegaconf", "antlr4": "antlr4-python3-runtime", "pydantic": "pydantic",
    "pydantic_core": "pydantic-core", "annotated_types": "annotated-types", "typing_inspection": "typing-inspection",
    "defusedxml": "defusedxml", "yaml": "pyyaml", "packaging": "packaging", "jinja2": "jinja2",
    "psutil": "psutil", "rich": "rich",
    "typer": "typer", "pytest": "pytest", "pytest_timeout": "pytest-timeout", "xdist": "pytest-xdist",
    "hypothesis": "hypothesis",
}  # fmt: skip
UNUSED = ("vllm", "ray", "wandb", "datasets")
SHOWN = ("torch", "transformers")


def line_and_code(is_there: Callable[[str], bool], version_of: Callable[[str], str]) -> tuple[str, int]:
    """is_there: whether a module can be imported. version_of: the version of an installed package."""
    missing = [package for module, package in NEEDED.items() if not is_there(module)]
    unused = [module for module in UNUSED if not is_there(module)]
    versions = [f"{package} {version_of(package)}" for package in SHOWN if package not in missing]
    parts = [f"python {platform.python_version()}", *versions]
    if missing:
        parts.append(f"missing: {', '.join(missing)} (docs/performance.md: how to bring them as wheels)")
    if unused:
        parts.append(f"not installed, and not needed here: {', '.join(unused)}")
    return "; ".join(parts), SetupError.exit_code if missing else 0


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def main() -> int:
    line, code = line_and_code(_is_there, _version)
    print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
