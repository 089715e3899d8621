"""Train a new run from its start, with its checkpoints in a folder that is removed afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import START, RunState
from mars.config.schema import TrainConfig
from mars.fit import fit
from mars.step import TrainStep, train_step
from mars.step_parts import PromptRounds, StepParts
from mars.tracking.tracker import Tracker


def fit_new_run(
    parts: StepParts,
    stream: PromptRounds,
    tracker: Tracker,
    config: TrainConfig,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    num_dropped: int = 0,
    train_step: TrainStep = train_step,
) -> RunState:
    with TemporaryDirectory() as folder:
        checkpoints = Checkpoints(
            Catalogue(Path(folder)), parts.trainer, 1, config.checkpoint, {}, "data", timeout_s=10.0
        )
        return fit(parts, stream, tracker, config, evaluate, checkpoints, START, num_dropped, train_step)
