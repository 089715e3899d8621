"""Functions in users' own Python files, named "path/to/file.py:function". This module does not know what they are for.

spec = resolve("reward.function", "my_rewards.py:count", "want path/to/file.py:name")  # absolute; runs nothing
function = load("reward.function", spec, "(item: RewardInput)")                        # runs the file
function.check_call(None)                                            # ConfigError unless it takes one argument
record(run_dir, {"reward.function": [spec]})                              # writes the file's sha256 to plugins.json
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import logging
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from mars.errors import ConfigError

logger = logging.getLogger(__name__)

RECORD_FILE = "plugins.json"
_PACKAGE = Path(__file__).resolve().parent
_LOADS = itertools.count()


class NameNotFound(ConfigError):
    """A user's file could be run, but has no function of this name."""


def is_spec(text: str) -> bool:
    """Whether `text` has the form "path/to/file.py:function". Does not look for the file."""
    path, colon, name = text.rpartition(":")
    return bool(colon and path and name.isidentifier())


def resolve(setting: str, text: str, wanted: str) -> str:
    """`text` with an absolute path, so that it means the same in every process. Does not run the file.

    setting: the key whose value is `text`, for messages. wanted: the form that `text` should have.
    `find` says where a relative path starts. Raises ConfigError if the file does not exist.
    """
    path, _, name = text.rpartition(":")
    file = find(path)
    if not file.is_file():
        raise ConfigError(f"{setting}: no such file; got {text!r}; {wanted}")
    return f"{file}:{name}"


def find(path: str) -> Path:
    """The absolute path of a user's file. A relative one starts at the current folder, or names a file of mars' own
    recipe/ (`shipped`).
    """
    return Path(shipped(os.path.expanduser(path))).absolute()


def shipped(path: str) -> str:
    """The file or folder of mars' own recipe/ that `path` names, such as "recipe/papo"; else `path` itself.

    It is looked for if `path` begins with "recipe" and does not exist in the current folder. If mars is installed,
    recipe/ is inside the package; in a checkout it is next to the package.
    """
    if Path(path).parts[:1] != ("recipe",) or os.path.lexists(path):
        return path
    return next((str(home / path) for home in (_PACKAGE, _PACKAGE.parent) if (home / path).exists()), path)


@dataclass(frozen=True)
class UserFunction:
    """A function of a user's file.

    setting, spec, wanted: the arguments of `load`.
    module: the file as a module, for what else it declares.
    """

    call: Callable[..., Any]
    signature: inspect.Signature
    module: ModuleType
    setting: str
    spec: str
    wanted: str

    def check_call(self, *arguments: Any, **named: Any) -> None:
        """Raises ConfigError if the function does not take these arguments. Checks the signature without calling it."""
        try:
            self.signature.bind(*arguments, **named)
        except TypeError as error:
            takes = f"{self.spec} takes {self.signature} ({error})"
            raise ConfigError(f"{self.setting}: {takes}; want {self.wanted}") from error


def load(setting: str, spec: str, wanted: str, classes: bool = False, *, in_threads: bool = False) -> UserFunction:
    """Runs the file of a resolved `spec` and returns its function.

    The file may import modules from its own folder, at its top or inside its functions, whatever the current folder is:
    `import helper`, or `from .helper import name`. If the file is a link, modules may also be in the folder of the
    link's target. Each load has its own copies of these modules, so files in different folders may all `import helper`.

    wanted: the parameters that the function should have, for messages.
    classes: whether the name may be a class, which is called to make an object. The methods of this object
        run later, and cannot import modules of the folder: the modules that they use must be imported before.
    in_threads: whether several threads may call the function at once. If so, the modules of the file's folder stay
        importable in this process, so all functions loaded in this way must be in one folder.
    Raises ConfigError
    - if the file cannot be loaded or lacks the name (NameNotFound),
    - if the file imports a name of which there are two modules (`_refuse_two_modules`),
    - if the name is not a plain function but an async function, a generator or, without `classes`, a class.
    """
    path, _, name = spec.rpartition(":")
    _refuse_two_modules(setting, Path(path))
    imports = _FolderImports(_folders(Path(path)))
    module = _run_file(setting, Path(path), imports)
    function = getattr(module, name, None)
    if function is None:
        raise NameNotFound(f"{setting}: {path} has no {name!r}")
    kind = None if classes and inspect.isclass(function) else _kind_refused(function)
    if kind is not None:
        raise ConfigError(f"{setting}: {spec} is not a plain function; got {kind}; want {wanted}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{setting}: {spec} has no readable signature; want {wanted}") from error

    if in_threads:
        imports.__enter__()
        return UserFunction(function, signature, module, setting, spec, wanted)

    def call(*arguments: Any, **named: Any) -> Any:
        with imports:
            return function(*arguments, **named)

    return UserFunction(call, signature, module, setting, spec, wanted)


def self_test(setting: str, failures: Sequence[str | None], remedy: str) -> None:
    """Judge a function by its results for a few real items, before a run starts. Raises ConfigError if all failed.

    failures: for each item, why the function failed, or None. If only some items failed, the function is accepted,
    because a run handles single failures. remedy: what to do, for the message.
    """
    reasons = [reason for reason in failures if reason is not None]
    if reasons and len(reasons) == len(failures):
        count = len(failures)
        raise ConfigError(
            f"{setting}: failed on each of the {count} items of its self-test; the first: {reasons[0]}; {remedy}"
        )


def record(run_dir: Path, specs: Mapping[str, Sequence[str]]) -> dict[str, list[dict[str, str]]]:
    """Record the users' code of a run: write the sha256 of each file to the log and to <run_dir>/plugins.json.

    specs: setting -> its resolved specs. The JSON file and the result are {setting: [{"file", "function", "sha256"}]}.
    Raises ConfigError for a file that cannot be read.
    """
    entries = {setting: [_entry(setting, spec) for spec in listed] for setting, listed in specs.items() if listed}
    for setting, listed in entries.items():
        for entry in listed:
            logger.info("%s: %s of %s, sha256 %s", setting, entry["function"], entry["file"], entry["sha256"])
    (run_dir / RECORD_FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return entries


def _entry(setting: str, spec: str) -> dict[str, str]:
    path, _, name = spec.rpartition(":")
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}; give a readable file") from error
    return {"file": path, "function": name, "sha256": digest}


def _run_file(setting: str, path: Path, imports: _FolderImports) -> ModuleType:
    package = f"mars_plugin_{next(_LOADS)}"  # another one for each load, so that each has its own relative imports
    name = f"{package}.{path.stem if path.stem.isidentifier() else 'file'}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{setting}: {path} is not a Python file; want path/to/file.py:name")
    module = importlib.util.module_from_spec(spec)
    parent = ModuleType(package)  # for `from .helper import name`
    parent.__path__ = _folders(path)
    sys.modules[package] = parent
    sys.modules[name] = module  # a dataclass in the file looks up its module in sys.modules
    importlib.invalidate_caches()  # finds also modules that were written to the folder a moment ago
    try:
        with imports:
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        for loaded in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
            del sys.modules[loaded]
        beside = "; modules beside the file are imported by their names: import helper"
        hint = beside if isinstance(error, ImportError) else ""
        raise ConfigError(f"{setting}: {path} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    return module


def _refuse_two_modules(setting: str, path: Path) -> None:
    """Raise ConfigError if a file imports a name that is both a module beside it and a module of Python or of an
    installed package.

    Which of the two the import finds would depend on what the process has imported before.
    """
    installed = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    for name in sorted(_imported(path) - {_PACKAGE.name}):
        places = [Path(folder, *rest) for folder in _folders(path) for rest in ((f"{name}.py",), (name, "__init__.py"))]
        beside = next((place for place in places if place.is_file()), None)
        if beside is None:
            continue
        spec = PathFinder.find_spec(name, installed)
        if name in sys.stdlib_module_names or (spec is not None and spec.origin not in (None, str(beside))):
            kind = "Python's own" if name in sys.stdlib_module_names else "that of an installed package"
            raise ConfigError(
                f"{setting}: {path} imports {name!r}, and there are two such modules: {beside} and {kind}; rename the "
                f"file, or import it as .{name} (from .{name} import ...)"
            )


def _imported(path: Path) -> set[str]:
    """The names that a file imports absolutely, anywhere: "a" for `import a.b`. Empty if the file is not valid
    Python."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()  # running it says what is wrong
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def _folders(path: Path) -> list[str]:
    """The folder of a file. If the file is a link, also the folder of its target."""
    return list(dict.fromkeys((str(path.parent), str(path.resolve().parent))))


def _kind_refused(function: Any) -> str | None:
    """What a `function` is, if it is refused; None for a plain function or an object that can be called like one."""
    if not callable(function) or inspect.isclass(function):
        return type(function).__name__
    for called in (function, type(function).__call__):
        if inspect.iscoroutinefunction(called):
            return "an async function"
        if inspect.isasyncgenfunction(called):
            return "an async generator"
        if inspect.isgeneratorfunction(called):
            return "a generator"
    return None


class _FolderImports:
    """A context in which modules in `folders` can be imported by name, as if a script in these folders were run.

    Python keeps one module for each name. Leaving the context therefore removes the modules of `folders` from
    `sys.modules` and restores the modules that had the same names before. Entering the context again puts the modules
    of `folders` back.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders
        self._modules: dict[str, ModuleType] = {}
        self._displaced: dict[str, ModuleType] = {}
        self._before: set[str] = set()

    def __enter__(self) -> None:
        sys.path[:0] = self._folders
        self._displaced = {name: sys.modules[name] for name in self._modules if name in sys.modules}
        sys.modules.update(self._modules)
        self._before = set(sys.modules)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for folder in self._folders:
            with suppress(ValueError):  # the file may have changed sys.path
                sys.path.remove(folder)
        self._modules |= {name: sys.modules[name] for name in set(sys.modules) - self._before if self._is_ours(name)}
        for name in self._modules:
            sys.modules.pop(name, None)
        sys.modules.update(self._displaced)

    def _is_ours(self, name: str) -> bool:
        """Whether a new module, or the package that contains the module, was found in the folders."""
        top = name.partition(".")[0]
        if top in self._before and top not in self._modules:
            return False  # loaded before, such as mars, whose package may be in this folder
        module = sys.modules.get(top)
        places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
        return places[0] is not None and str(Path(places[0]).parent) in self._folders
