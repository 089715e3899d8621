"""The settings of `mars eval run` and `infer`: those of configs/train.yaml or, with --like, those of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mars.config.folders import CONFIG_FILE, quoted
from mars.config.load import load_config, load_saved_config, read_saved
from mars.config.schema import TrainConfig
from mars.errors import ConfigError
from mars.run_dir.attempt import enter_working_directory

# No trainer shares the GPUs, and none sends weights.
_ALONE = ("cluster.placement=separate", "rollout.weight_transfer=object_store")


def evaluation_config(
    model: str, files: str, overrides: Sequence[str], config_dirs: Sequence[str], like: Path | None
) -> TrainConfig:
    """The configuration of a job that asks `model` the questions in `files`. Prepares this process to import torch.

    like: folder of the run whose settings are used, with the changes in `overrides`.
    Relative paths in a run's settings start at the folder in which the run was started. That folder becomes the working
    directory, so with `like` all paths in the other arguments must be absolute. Raises ConfigError.
    """
    given = [f"{key}=[{quoted(files)}]" for key in ("data.eval_files", "data.train_files")]
    words = [f"model.path={quoted(model)}", *given, *overrides, *_ALONE]
    config = load_config("train", words, config_dirs) if like is None else _of_run(like, words, config_dirs)
    from mars.cluster.environment import prepare_process

    prepare_process(config.cluster.kind, config.cluster.threads_per_worker, config.cluster.device)
    return config


def _of_run(run_dir: Path, overrides: Sequence[str], config_dirs: Sequence[str]) -> TrainConfig:
    if config_dirs:
        raise ConfigError(
            f"--config-dir: a run has saved its settings, not the groups that set them; got {config_dirs[0]} with "
            "--like; leave it out, and give settings as key=value"
        )
    run_dir = Path(os.path.abspath(run_dir))
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(f"--like: {run_dir} has no {CONFIG_FILE}; give the run.dir of a run")
    if read_saved(run_dir / CONFIG_FILE)[0] == "sft":
        raise ConfigError(
            f"--like: {run_dir} is a cold start, which has no engine and no reward; leave out --like, or give a run of "
            "reinforcement learning"
        )
    # An evaluation keeps no checkpoint, and its overrides may leave no step with the metric of the run's keep_best.
    here = [f"run.dir={quoted(str(run_dir))}", "checkpoint.keep_best=null"]
    config = load_saved_config(run_dir / CONFIG_FILE, [*here, *overrides])
    assert isinstance(config, TrainConfig)  # cold starts were refused above
    enter_working_directory(run_dir)
    return config


def path_from_here(text: str) -> str:
    """An existing path, made absolute. Other text, such as a name on the hub, is returned unchanged."""
    return os.path.abspath(text) if os.path.exists(text) else text
