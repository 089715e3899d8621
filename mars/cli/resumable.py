"""What `mars resume` can say before slow imports: that a run is complete, or that a file it needs is gone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.config.folders import key_of
from mars.config.paths import ROW_KEYS
from mars.config.schema import SftConfig, TrainConfig
from mars.config.templates import SUFFIX
from mars.data.rows.saved import saved_set
from mars.errors import CheckpointError, ConfigError
from mars.plugin import find, is_spec
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.lock import refuse_busy
from mars.run_dir.outcome import finished_step

_STEPS = "run.num_steps"
_WITH_FUNCTIONS = ("reward.", "recipe.", "tracking.")


def finished_before(config: TrainConfig | SftConfig, overrides: Sequence[str]) -> int | None:
    """The last step of a run that has nothing left to train. None if it may have something left.

    Decides without the rows and the model of the run, so it returns None if settings besides `run.num_steps` have
    changed. `mars.train.start_unless_complete` decides the same with the rows and the model.

    Raises BusyError if another process writes to the run.
    """
    run_dir, steps = Path(config.run.dir), config.run.num_steps
    refuse_busy(run_dir)
    done = finished_step(EventLog(run_dir / EVENTS_FILE).entries())
    changed = [text for text in overrides if key_of(text) != _STEPS]
    if done is None or steps is None or changed or done < steps:
        return None
    catalogue = Catalogue(run_dir / CHECKPOINTS_FOLDER)
    saved = catalogue.steps()
    if not saved or saved[-1] != done:
        return None
    try:
        catalogue.load(done)
    except CheckpointError:  # the steps may have to be trained again
        return None
    return done


def check_places(config: TrainConfig | SftConfig, gone: Path | None) -> None:
    """Raises ConfigError with all files and folders of the settings that do not exist.

    gone: the folder in which the run was started, if it no longer exists.
    A model named "owner/name" may be on the hub, so it is not looked for here.
    """
    missing = list(_missing(config, gone))
    if not missing:
        return
    run_dir, lines = config.run.dir, [f"  {key}: {path}" for key, path in missing]
    if gone is not None:
        lines.append(f"The run was started in {gone}, which is gone; relative paths now start at {Path.cwd()}.")
    keys = dict.fromkeys(key for key, _ in missing)
    new = " ".join(f"{key}={'[NEW, ...]' if key in ROW_KEYS else 'NEW'}" for key in keys)
    raise ConfigError(
        f"{run_dir}: not all that the run needs is where it was; missing:\n"
        + "\n".join(lines)
        + f"\nIf it has moved, say where to: mars resume {shlex.quote(run_dir)} {new}"
    )


def _missing(config: TrainConfig | SftConfig, gone: Path | None) -> Iterator[tuple[str, str]]:
    """(key, path) of each file or folder that does not exist."""
    values = config.dotted()
    has_reference = isinstance(config, TrainConfig) and config.algorithm.loads_reference
    for key in ("model.path", "algorithm.kl_reference") if has_reference else ("model.path",):
        path = values[key]
        if path is not None and not os.path.isdir(path) and not _may_be_of_the_hub(path, gone):
            yield key, path
    for key in ROW_KEYS:
        yield from ((key, file) for file in values[key] if not os.path.lexists(file) and saved_set(file) is None)
    if values["data.image_root"] is not None and not os.path.isdir(values["data.image_root"]):
        yield "data.image_root", values["data.image_root"]
    template = values["data.template"]
    if template.endswith(SUFFIX) and not find(template).is_file():
        yield "data.template", template
    for key, value in values.items():
        if key.startswith(_WITH_FUNCTIONS):
            specs = (text for text in _texts(value) if is_spec(text) and ".py:" in text)
            yield from ((key, spec) for spec in specs if not find(spec.rpartition(":")[0]).is_file())


def _may_be_of_the_hub(path: str, gone: Path | None) -> bool:
    """Whether a model that is no folder here may be on the hub: "owner/name", or "name" as early models have.

    If the folder in which the run was started is gone, a "name" is taken for a folder that was in it.
    """
    if path.startswith(("/", ".")):
        return False
    return path.count("/") == 1 or (path.count("/") == 0 and gone is None)


def _texts(value: object) -> Iterator[str]:
    """All texts in a setting's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
