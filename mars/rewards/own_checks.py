"""The check of ground truths that a user's file has for its own reward."""

from __future__ import annotations

import ast
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mars.errors import ConfigError, DataError
from mars.plugin import load
from mars.rewards.contract import CheckTruth, Size

_WANTED = "(truth, extra_info, truth_size), which returns None or what is wrong"


def load_check(spec: str) -> CheckTruth | None:
    """The function `check_NAME` at the top level of the file of a resolved reward "file.py:NAME"; None without one.

    It checks the truths of rows. Several threads may call the result, which runs the function once at a time. The text
    that the function returns says what is wrong with a truth, and so does the text of a DataError that it raises.
    Runs nothing of a file without such a function. Raises ConfigError if the file cannot be loaded. The result raises
    ConfigError if the function raises anything else, or returns what is neither a text nor None.
    """
    path, _, name = spec.rpartition(":")
    if f"check_{name}" not in _top_level_names(Path(path)):
        return None
    own = f"{path}:check_{name}"
    function = load("reward.function", own, _WANTED)
    function.check_call("", {}, None)
    lock = threading.Lock()

    def check(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
        try:
            with lock:
                found = function.call(truth, extra_info, truth_size)
        except DataError as error:
            return str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"reward.function: {own} failed on the truth {truth[:80]!r}: {reason}") from error
        if found is not None and not isinstance(found, str):
            raise ConfigError(f"reward.function: {own} returned {type(found).__name__}; want {_WANTED}")
        return found

    return check


def _top_level_names(path: Path) -> set[str]:
    """Names that a file defines or imports, outside of functions, classes and conditions. Runs nothing of it."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return set()  # loading the reward says so
    found: set[str] = set()
    for line in body:
        match line:
            case ast.FunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {one.id for one in targets if isinstance(one, ast.Name)}
            case ast.ImportFrom(names=names):
                found |= {one.asname or one.name for one in names}
            case _:
                pass
    return found
