"""`mars resume RUN [key=value ...]`: go on with a run or a cold start, from any folder."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from mars import main, sft
from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER
from mars.cli.resumable import check_places, finished_before
from mars.config.folders import CONFIG_FILE, key_of, quoted
from mars.config.load import load_saved_config
from mars.config.schema import SftConfig
from mars.errors import ConfigError
from mars.run_dir.attempt import enter_working_directory
from mars.run_dir.outcome import POLICY_FOLDER, TRAIN_ON, complete_message

logger = logging.getLogger(__name__)

_FIXED = ("run.dir", "run.resume")


def resume(run_dir: Path, overrides: Sequence[str]) -> None:
    """Train with the settings of the run and `overrides`.

    Relative paths, also in `overrides`, start at the folder in which the run's last attempt was started, or at the
    current folder if that one is gone or belonged to a submitted job. Raises ConfigError.
    """
    run_dir = Path(os.path.abspath(run_dir))
    given = [text for text in overrides if key_of(text) in _FIXED]
    if given:
        raise ConfigError(f"{given[0]}: `mars resume` sets {' and '.join(_FIXED)} itself; leave it out")
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(f"{run_dir}: {_what_to_give(run_dir)}")
    gone = enter_working_directory(run_dir)
    fixed = [f"run.dir={quoted(str(run_dir))}", "run.resume=true"]
    config = load_saved_config(run_dir / CONFIG_FILE, [*fixed, *overrides])
    done = finished_before(config, overrides)
    if done is not None:
        logger.info("%s", complete_message(done, run_dir / POLICY_FOLDER, TRAIN_ON))
        return
    check_places(config, gone)
    if isinstance(config, SftConfig):
        sft.train(config, overrides)
    else:
        main.train(config, overrides)


def _what_to_give(folder: Path) -> str:
    """What to resume instead of `folder`, which contains no run."""
    run = next((parent for parent in folder.parents if (parent / CONFIG_FILE).is_file()), None)
    if run is None:
        return f"no run is here, it has no {CONFIG_FILE}; give the run.dir of a run"
    newest = f"to go on from its newest checkpoint, use `mars resume {shlex.quote(str(run))}`"
    if folder.parent != run / CHECKPOINTS_FOLDER:
        return f"this is a part of the run {run}; {newest}"
    return (
        f"this is a checkpoint of the run {run}; {newest}; to go on from this one, copy the run's folder, remove the "
        f"newer {CHECKPOINTS_FOLDER}/step_* in the copy, and resume the copy"
    )
