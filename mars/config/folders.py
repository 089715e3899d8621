"""The folders of configuration files: the shipped one, those given with --config-dir, and that of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from mars.config.problem import Problem
from mars.plugin import shipped

CONFIG_FILE = "config.yaml"
"""In run.dir: all settings of the run."""

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """configs/ is inside the package if mars is installed, and next to it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def groups(root: str, folders: Sequence[Path]) -> dict[str, list[str]]:
    """Group -> its choices, for the groups in the defaults of <root>.yaml. Choices are file names, sorted."""
    found = ((name, [path for folder in folders for path in (folder / name).glob("*.yaml")]) for name in _names(root))
    return {name: sorted(path.stem for path in paths) for name, paths in found}


@cache
def _names(root: str) -> tuple[str, ...]:
    """The groups that root.yaml's defaults name."""
    defaults = yaml.safe_load((shipped_folder() / f"{root}.yaml").read_text(encoding="utf-8"))["defaults"]
    return tuple(name for entry in defaults if isinstance(entry, dict) for name in entry)


def how_to_add(group: str, choice: str) -> str:
    """A hint for the user who asked for a choice of `group` that the searched folders do not have.

    If ./configs or one of mars' recipes has its file: "configs/experiment/mine.yaml needs --config-dir configs".
    Else a general hint.
    """
    parent = f"{group}/{choice}.yaml"
    recipes = Path(shipped("recipe"))
    found = [folder for folder in (Path("configs"), *sorted(recipes.glob("*"))) if (folder / parent).is_file()]
    if not found or not re.fullmatch(r"[\w.-]+", choice):
        return f"{group}/NAME.yaml of your own needs --config-dir with the folder that {group}/ is in"
    folder = Path("recipe", found[0].name) if found[0].parent == recipes else found[0]
    return f"{folder / parent} needs --config-dir {folder}"


def folder_problems(folders: Sequence[Path]) -> list[Problem]:
    """Report missing folders, and files that exist in two folders (Hydra would read only the first)."""
    problems, owner = [], {}
    for folder in folders:
        if not folder.is_dir():
            problems.append(Problem("--config-dir", "no such folder", "give a folder of YAML files", got=str(folder)))
        for path in sorted(folder.glob("*/*.yaml")):
            name = path.relative_to(folder)
            if name in owner:
                problems.append(Problem(str(path), f"hidden by {owner[name] / name}, which is read first", "rename it"))
            owner.setdefault(name, folder)
    return problems


def key_of(override: str) -> str:
    """The key that an override sets, such as run.dir for "+run.dir=runs/a"."""
    return override.lstrip("+").partition("=")[0]


def quoted(text: str) -> str:
    """Quote `text` so that Hydra reads it as exactly this text.

    >>> "model.path=" + quoted("it's, here")
    "model.path='it\\\\'s, here'"
    """
    inner = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{inner}'"
