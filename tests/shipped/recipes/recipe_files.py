"""What the tests of recipes share: their folders, their functions, and answers to score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.plugin import load, resolve
from mars.types import RewardInput, RewardResult

ROOT = Path(__file__).parents[3]
# recipe/effect is no method: it measures the effect of the settings of others.
FOLDERS = sorted(path.parent for path in ROOT.glob("recipe/*/README.md") if path.parent.name != "effect")


def experiments(folder: Path, *, tiny: bool) -> list[str]:
    """The names of a recipe's experiments of the paper's size, or of its tiny ones."""
    names = sorted(path.stem for path in folder.glob("experiment/*.yaml"))
    return [name for name in names if name.endswith("_tiny") == tiny]


def compose(folder: Path, experiment: str, *overrides: str) -> TrainConfig:
    """Data of the paper's experiments is the user's own."""
    data = [] if experiment.endswith("_tiny") else ["data.train_files=[given.parquet]"]
    return load_config("train", [f"experiment={experiment}", *data, *overrides], [str(folder)])


@cache
def module_of(method: str, file: str = "functions.py") -> ModuleType:
    """recipe/METHOD/FILE, loaded as a run loads it."""
    path = ROOT / "recipe" / method / file
    first = next(line for line in path.read_text().splitlines() if line.startswith("def "))
    spec = resolve("test", f"{path}:{first[4:].partition('(')[0]}", "want a file")
    return load("test", spec, "anything").module


def reward_of(method: str, name: str) -> Callable[[RewardInput], RewardResult]:
    return getattr(module_of(method), name)


def item(response: str, truth: str, extra_info: Mapping[str, Any] | None = None, **changes: Any) -> RewardInput:
    """An answer to a row without images."""
    values = {"data_source": "set", "view": None, "truth_size": None, "response_size": None}
    return RewardInput(response=response, truth=truth, extra_info=extra_info or {}, **values | changes)


def answer(text: str, think: str = "so") -> str:
    return f"<think>{think}</think><answer>{text}</answer>"
