"""A function of a user's file that checks the ground truths for the reward in the same file."""

from __future__ import annotations

import ast
import symtable
import threading
from collections.abc import Mapping
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from mars.errors import ConfigError, DataError
from mars.plugin import NameNotFound, UserFunction, load
from mars.rewards.contract import CheckTruth, Size
from mars.users_code import calling

_WANTED = "(truth, extra_info, truth_size), which returns None or what is wrong"

# One lock for all checks: users' code that is loaded or called changes sys.path and sys.modules of the whole process.
# A check may load and call the check of another file, so its thread can take the lock again.
_LOCK = threading.RLock()


def load_check(spec: str) -> CheckTruth | None:
    """The function `check_NAME` of the file of a resolved reward "file.py:NAME"; None without one.

    Several threads may call the function; this process runs only one check at a time.
    The text that the function returns says what is wrong with a truth, and so does the text of a DataError that it
    raises. The file is run only if its code defines `check_NAME`, or has an `import *`.
    Raises ConfigError if running the file fails, or if `check_NAME` is not a plain function. Returns None for a file
    that cannot be read or has a syntax error: loading the reward itself reports this. The check that `load_check`
    returns raises ConfigError if the user's function raises an exception other than DataError, returns anything but a
    text or None, or refuses a truth with a text that is empty or blank.
    """
    path, _, name = spec.rpartition(":")
    own = f"{path}:check_{name}"
    function = _load(own)
    if function is None:
        return None
    function.check_call("", {}, None)

    def check(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
        try:
            with _LOCK, calling(f"reward.function: {own} failed on the truth {truth[:80]!r}"):
                found = function.call(truth, extra_info, truth_size)
        except DataError as error:
            found = str(error)
        if found is not None and not isinstance(found, str):
            raise ConfigError(f"reward.function: {own} returned {type(found).__name__}; want {_WANTED}")
        if found is not None and not found.strip():  # it does not say whether the truth is good
            raise ConfigError(f"reward.function: {own} gave an empty text for {truth[:80]!r}; want {_WANTED}")
        return found

    return check


def _load(own: str) -> UserFunction | None:
    path, _, name = own.rpartition(":")
    try:
        source = decode_source(Path(path).read_bytes())
        named = _gets_value(symtable.symtable(source, path, "exec"), name)
        if not named and not _imports_all(source):
            return None
    except (OSError, SyntaxError, ValueError):
        return None  # loading the reward itself reports this
    try:
        with _LOCK:
            return load("reward.function", own, _WANTED)
    except NameNotFound as error:
        if not named:
            return None
        what = f"{path} names {name!r}, but it is None or not defined once the file has run"
        raise ConfigError(f"reward.function: {what}; define it always, or remove it") from error


def _gets_value(table: symtable.SymbolTable, name: str) -> bool:
    """Whether code of the file gives this name of the module a value: any statement at the top level, also below `if`
    or `try`, or a function with `global`."""
    for symbol in table.get_symbols():
        ours = table.get_type() == "module" or symbol.is_declared_global()
        if symbol.get_name() == name and ours and (symbol.is_assigned() or symbol.is_imported()):
            return True
    return any(_gets_value(child, name) for child in table.get_children())


def _imports_all(source: str) -> bool:
    """Whether the file has `from ... import *`, which may define any name in the file."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return any(alias.name == "*" for node in imports for alias in node.names)
