"""`mars data check FILE... --model M [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mars.config.folders import quoted
from mars.config.load import experiment_sets, load_config
from mars.config.paths import given_path
from mars.errors import ConfigError, DataError


def sets_reward(overrides: Sequence[str], config_dirs: Sequence[str]) -> bool:
    """Whether the overrides, or the experiment among them, say which reward is used."""
    named = any(override.startswith(("reward=", "reward.function=")) for override in overrides)
    return named or experiment_sets("reward.function", overrides, config_dirs)


def run_check(arguments: Sequence[str], held_out: Sequence[str], model: str, config_dirs: Sequence[str]) -> None:
    """Check files with the settings of training and print the result.

    arguments: files and overrides such as reward=vqa; an argument with "=" that names no file is an override. If
    none of them sets the reward, the first readable truth decides which built-in reward is used.
    Raises DataError with one table of all problems, and ConfigError for wrong settings.
    """
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    files = [given_path(argument) for argument in arguments if argument not in overrides]
    if not files:
        raise ConfigError("mars data check: no file given; got only settings; name a parquet or JSONL file")
    listed = ",".join(quoted(file) for file in files)
    given = [f"model.path={quoted(model)}", f"data.train_files=[{listed}]"]
    if not sets_reward(overrides, config_dirs):
        from mars.evaluation.questions import task_of_rows
        from mars.rewards.built_in import default_for

        given.append(f"reward.function={next(filter(None, map(task_of_rows, files)), default_for(''))}")
    config = load_config("train", [*given, *overrides], config_dirs)
    from mars.checks.data import check, check_lines
    from mars.data.rows.problems import report
    from mars.output.text import visible

    result = check(config, files, held_out)
    sys.stdout.write("".join(f"{visible(line)}\n" for line in check_lines(result, config)))
    sys.stdout.flush()
    if result.problems:
        remedy = "fix the rows, or train with data.on_bad_sample=drop, which drops and counts them"
        raise DataError(visible(report(result.problems, result.num_rows, remedy, most_shown=None), "\n"))
