"""Paths in settings and on command lines. "~" becomes the user's home. A shell variable left in a path is refused.

A shell replaces "~" only at the beginning of a word. So it leaves the "~" of `run.dir=~/runs`, and of files in a list
such as `data.train_files=[~/a.parquet]`, to mars.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mars.config.problem import Problem
from mars.errors import ConfigError
from mars.plugin import shipped

ROW_KEYS = ("data.train_files", "data.eval_files")
"""Keys with lists of files of rows."""

PATH_KEYS = ("run.dir", "model.path", "algorithm.kl_reference", "data.image_root", *ROW_KEYS, "data.template")
"""Keys with a path, or a list of paths. Functions in users' files are paths too: mars/plugin.py expands those."""

_OF_RECIPES = ("data.image_root", *ROW_KEYS)
"""Keys whose paths may begin with recipe/: if the current folder has no such path, mars' own recipes are meant."""

_VARIABLE = re.compile(r"\$(?=\w|\{)\{?(?P<name>\w*)")
_WRITE_VARIABLE = "write ${oc.env:NAME} for it, ~ for $HOME, or ./$… for a file of this name"
_ADDRESS = re.compile(r"(?P<kind>[A-Za-z][A-Za-z0-9+.-]*)://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")


def with_homes(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` (dotted key -> value) with "~" and "~name" at the beginning of a path replaced by that user's home.

    Paths of rows and images that begin with recipe/ become paths in mars' own recipes, unless the current folder has
    such a path (`mars.plugin.shipped`).
    Example, for the home /home/ann: {"run.dir": "~/runs/1"} -> {"run.dir": "/home/ann/runs/1"}.
    """
    homes = {key: _each(os.path.expanduser, value) if key in PATH_KEYS else value for key, value in values.items()}
    return {key: _each(shipped, value) if key in _OF_RECIPES else value for key, value in homes.items()}


def path_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """values: after `with_homes`. One problem for each key with a value that cannot be a path."""
    for key in PATH_KEYS:
        value = values.get(key)
        for path in value if isinstance(value, list) else [value]:
            problem = _wrong(path) if isinstance(path, str) else None
            if problem is not None:
                yield Problem(key, *problem, got=path)
                break


def given_path(text: str, name: str = "path") -> str:
    """A path of a command line, with "~" replaced. name: of its option.

    Raises ConfigError for a text that cannot be a path.

    Example, for the home /home/ann: "~/images" -> "/home/ann/images".
    """
    path = os.path.expanduser(text)
    problem = _wrong(
        path, variable="write it without single quotes, so that the shell does, or ./$… for a file of this name"
    )
    if problem is not None:
        raise ConfigError(str(Problem(name, *problem, got=text)))
    return path


def _each(change: Callable[[str], str], value: Any) -> Any:
    """The path, or each path of the list, changed. What is no text stays."""
    if isinstance(value, list):
        return [_each(change, item) for item in value]
    return change(value) if isinstance(value, str) else value


def _wrong(path: str, variable: str = _WRITE_VARIABLE) -> tuple[str, str] | None:
    """(what is wrong with the path, what to do), or None. variable: what to do if the path has a shell variable."""
    if not path:
        return "empty", "give a path"
    if path.startswith("~"):
        return "no user has this home", "write the path from / on, or ./~… for a folder of this name"
    if _has_variable(path):
        return "a shell variable that no shell has replaced", variable
    if "\0" in path:
        return "a zero byte, which no path has", "remove it"
    if path != path.strip():
        return "white space before or after the path", "remove it (a list with Windows line ends has \\r)"
    if address := _ADDRESS.match(path):
        remedy = "give the path alone" if address["kind"] == "file" else "download it, and give its path"
        return "an address, and only paths are read", f"{remedy} (a model of the hub is owner/name)"
    if _WINDOWS.match(path):
        return "a path of Windows", "give its path on this system, such as /mnt/c/… in WSL"
    return None


def _has_variable(path: str) -> bool:
    """Whether a part of the path begins with a shell variable, or contains one that is set in the environment.

    Example, with USER set: "/data/$USER/runs" and "runs/of_$USER", but not "cost$5" or "a$b". A "$" right after
    "./" at the start of the path does not count. Nor does a "$" in the name of an existing file or folder, unless the
    path begins with "$".
    """
    return any(
        found.start() == 0 or path[found.start() - 1] == "/" or found["name"] in os.environ
        for found in _VARIABLE.finditer(path)
        if not (found.start() == 2 and path.startswith("./")) and not _is_there(path, found.start())
    )


def _is_there(path: str, place: int) -> bool:
    """Whether the path, up to the end of the part that has the character at `place`, exists.

    False if the path begins with "$".
    """
    end = path.find("/", place)
    return not path.startswith("$") and os.path.lexists(path if end < 0 else path[:end])
