"""The trackers in `tracking.to`: checked before a run starts, then each built in a thread of its own, except "report".

"wandb", "path/to/file.py:Class" ──> `checked` ──> `factories` ──> the copies of `MultiTracker`
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import partial

from mars.errors import ConfigError, SetupError
from mars.output.console import VisibleConsole
from mars.plugin import is_spec, load, resolve
from mars.tracking.console import ConsoleTracker
from mars.tracking.mlflow import MlflowTracker
from mars.tracking.multi import Limited
from mars.tracking.pictures import RolloutPictures
from mars.tracking.swanlab import SwanLabTracker
from mars.tracking.tensorboard import TensorBoardTracker
from mars.tracking.tracker import TrackedRun, Tracker
from mars.tracking.wandb import DISABLED, WandbFactory, wandb_mode

KEY = "tracking.to"
PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "swanlab": "swanlab", "mlflow": "mlflow"}
"""Tracker -> the package that it needs."""
_WANTED = "path/to/file.py:Class, called with (run: TrackedRun)"
_METHODS = {"log": 2, "log_rollouts": 2, "close": 0}


def checked(names: Sequence[str]) -> list[str]:
    """The names in `tracking.to`; those of users' classes (file.py:Class) with absolute paths. To check these classes,
    their files are run.

    Raises SetupError if the package of a tracker is not installed. Raises ConfigError for a class that is not a tracker
    and for an unknown WANDB_MODE.
    """
    return [_own(name) if is_spec(name) else _built_in(name) for name in names]


def own_specs(names: Sequence[str]) -> list[str]:
    """The names of users' classes."""
    return [name for name in names if is_spec(name)]


def factories(
    names: Sequence[str], run: TrackedRun, pictures: RolloutPictures | None, on_start: Callable[[], object]
) -> dict[str, Callable[[], Tracker]]:
    """Name -> function that builds the tracker, for names returned by `checked`; without report, which is no tracker,
    and without wandb if it is disabled.

    pictures: draws rollouts; None for a run that samples none. on_start: called when wandb's tracker is built or its
    build has failed (`WandbFactory`).
    """
    made: dict[str, Callable[[], Tracker]] = {}
    for name in names:
        match name:
            case "console":
                made[name] = partial(ConsoleTracker, run.last_step, VisibleConsole(), done=run.resumed_step or 0)
            case "report":
                continue  # written by a process of its own (mars/live_report), which reads the run's files
            case "wandb":
                mode = wandb_mode()
                if mode != DISABLED:
                    made[name] = WandbFactory(run, mode, pictures, on_start)
            case "tensorboard":
                made[name] = partial(TensorBoardTracker, run, pictures)
            case "swanlab":
                made[name] = Limited(partial(SwanLabTracker, run, pictures), run.timeout_s)
            case "mlflow":
                made[name] = Limited(partial(MlflowTracker, run, pictures), run.timeout_s)
            case _:
                own = load(KEY, name, _WANTED, classes=True)
                made[name] = Limited(partial(own.call, run), run.timeout_s)
    return made


def _built_in(name: str) -> str:
    package = PACKAGES.get(name)
    if package is not None:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:  # no origin: only a folder of this name, as runs of wandb leave behind
            raise SetupError(
                f"{KEY}: {name} needs a package that is not installed; pip install {package}, or leave it out"
            )
    if name == "wandb":
        wandb_mode()
    return name


def _own(name: str) -> str:
    spec = resolve(KEY, name, f"want {_WANTED}")
    function = load(KEY, spec, _WANTED, classes=True)
    function.check_call(None)
    made = getattr(function.module, spec.rpartition(":")[2])
    if not inspect.isclass(made):
        return spec
    for method, count in _METHODS.items():
        found = getattr(made, method, None)
        if not callable(found):
            raise ConfigError(f"{KEY}: {spec} has no method {method!r}; docs/tracking.md has an example")
        try:
            inspect.signature(found).bind(*[None] * (count + 1))
        except TypeError as error:
            takes = f"{method} takes {inspect.signature(found)} ({error})"
            raise ConfigError(f"{KEY}: {spec}: {takes}; docs/tracking.md has an example") from error
    return spec
