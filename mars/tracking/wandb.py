"""Weights & Biases as a copy of the metrics, behind `mars.tracking.multi.MultiTracker`, where it can hurt nothing."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.tracking.jsonl import finite_or_none
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)


class WandbTracker:
    """Sends every step's metrics to one wandb run.

    mode: "offline" writes under `folder` (`wandb sync` uploads it later); "online" falls back to offline, with a
        notice, where the server or the login is missing.
    timeout_s: longest that logging in, starting and finishing may take, each.

    The step is a metric of its own, so rows of a resumed run that go back are kept.
    """

    def __init__(
        self, mode: str, project: str, name: str, folder: Path, config: Mapping[str, Any], timeout_s: float
    ) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            init_timeout=timeout_s,
            login_timeout=timeout_s,
            finish_timeout=timeout_s,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
        )

        def start(mode: str) -> Any:
            return wandb.init(
                mode=mode, project=project, name=name, dir=str(folder), config=dict(config), settings=settings
            )

        if mode == "online":
            try:
                self._run = start("online")
            except wandb.Error as error:
                logger.warning("wandb: %s; this run is recorded offline; `wandb sync` uploads it later", error)
                self._run = start("offline")
        else:
            self._run = start(mode)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        numbers = {key: finite_or_none(value) for key, value in metrics.items()}
        self._run.log({"step": step, **{key: value for key, value in numbers.items() if value is not None}})

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        """Rollouts stay in the run's folder: model text and images are not sent anywhere."""

    def close(self) -> None:
        self._run.finish()


@dataclass(frozen=True)
class WandbFactory:
    """Builds a `WandbTracker` where it is called."""

    mode: str
    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    timeout_s: float

    def __call__(self) -> WandbTracker:
        return WandbTracker(self.mode, self.project, self.name, self.folder, self.config, self.timeout_s)

    def abandon(self) -> None:
        """Kill the wandb-core that this process started; wandb's exit hook waits for it without a limit."""
        import psutil

        for child in psutil.Process().children():
            try:
                if child.name() == "wandb-core":
                    child.kill()
            except psutil.NoSuchProcess:
                continue


def wandb_factory(
    mode: str, project: str, name: str, folder: Path, config: Mapping[str, Any], timeout_s: float
) -> WandbFactory | None:
    """What builds the tracker, or None with a notice: mode "off", or wandb is not installed."""
    if mode == "off":
        logger.info("wandb: off (tracking.wandb=off)")
        return None
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # no origin: a mere folder called wandb, such as offline runs leave
        logger.warning("wandb: off, it is not installed; metrics.jsonl has everything; `pip install wandb` adds it")
        return None
    return WandbFactory(mode, project, name, folder, config, timeout_s)
