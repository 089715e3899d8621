"""Whether the trackers of `tracking.to` can be made."""

from __future__ import annotations

from typing import TypeVar

from mars.config.schema import SftConfig, TrainConfig
from mars.tracking.named import checked

Job = TypeVar("Job", TrainConfig, SftConfig)


def with_checked_trackers(config: Job) -> Job:
    """The configuration with absolute paths in `tracking.to`. Runs the files of users' trackers, but makes no tracker.

    Raises SetupError for a package that is not installed, ConfigError for a class that is no tracker and
    for an unknown WANDB_MODE.
    """
    tracking = config.tracking
    return config.model_copy(update={"tracking": tracking.model_copy(update={"to": checked(tracking.to)})})
