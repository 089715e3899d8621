"""`mars resume RUN [key=value ...]`: go on with a run or a cold start, from any folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mars import main, sft
from mars.config.folders import quoted
from mars.config.load import load_saved_config
from mars.config.schema import SftConfig
from mars.errors import ConfigError
from mars.report.run_record import CONFIG_FILE
from mars.run_dir.attempt import enter_working_directory

_FIXED = ("run.dir", "run.resume")


def resume(run_dir: Path, overrides: Sequence[str]) -> None:
    """Train with the run's own settings and `overrides`.

    Relative paths, those in `overrides` too, start at the folder in which the run was started. Raises ConfigError.
    """
    run_dir = Path(os.path.abspath(run_dir))
    given = [text for text in overrides if text.lstrip("+").partition("=")[0] in _FIXED]
    if given:
        raise ConfigError(f"{given[0]}: `mars resume` sets {' and '.join(_FIXED)} itself; leave it out")
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(f"{run_dir}: no run is here, it has no {CONFIG_FILE}; give the run.dir of a run")
    enter_working_directory(run_dir)
    fixed = [f"run.dir={quoted(str(run_dir))}", "run.resume=true"]
    config = load_saved_config(run_dir / CONFIG_FILE, [*fixed, *overrides])
    if isinstance(config, SftConfig):
        sft.train(config, overrides)
    else:
        main.train(config, overrides)
