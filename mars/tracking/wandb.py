"""Copy a run's metrics to Weights & Biases. One of the `copies` of `MultiTracker`: its failures do not stop a run."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.output.secrets import redact, redacted
from mars.tracking.jsonl import finite_or_none
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)


class WandbTracker:
    """Sends the metrics of every step to one wandb run.

    mode: "offline" writes to `folder`, and `wandb sync` uploads it later. "online" falls back to offline, with a
        warning, if the server cannot be reached or the login fails.
    timeout_s: how long each of login, start and finish may take.

    Keys of the environment that a setting holds are left out of the configuration and the name.

    The step is logged as a metric, not as wandb's own step: wandb drops rows whose step goes back, as it does when a
    run is resumed.
    """

    def __init__(
        self, mode: str, project: str, name: str, folder: Path, config: Mapping[str, Any], timeout_s: float
    ) -> None:
        import wandb

        # Only the user can read wandb's own logs.
        (folder / "wandb").mkdir(mode=0o700, parents=True, exist_ok=True)
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
                mode=mode,
                project=project,
                name=redact(name),
                dir=str(folder),
                config=redacted(dict(config)),
                settings=settings,
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
        """Does nothing: texts and images stay in the run's folder and are not uploaded."""

    def close(self) -> None:
        self._run.finish()


@dataclass(frozen=True)
class WandbFactory:
    """Builds a `WandbTracker` in the thread that calls it."""

    mode: str
    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    timeout_s: float

    def __call__(self) -> WandbTracker:
        return WandbTracker(self.mode, self.project, self.name, self.folder, self.config, self.timeout_s)

    def abandon(self) -> None:
        """Kill the wandb-core processes that this process started: wandb's exit hook would wait for them forever."""
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
    """A factory of the tracker; None, with a log message, if mode is "off" or wandb is not installed."""
    if mode == "off":
        logger.info("wandb: off (tracking.wandb=off)")
        return None
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # no origin: only a folder named wandb, as offline runs leave behind
        logger.warning("wandb: off, because it is not installed (`pip install -e .`); metrics.jsonl has everything")
        return None
    return WandbFactory(mode, project, name, folder, config, timeout_s)
