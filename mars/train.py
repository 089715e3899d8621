"""Train from a starting point to the last step. If a trainer process dies or hangs, go on from the newest checkpoint.

Training and cold start share this module. Each has its own loop: mars/fit.py and mars/supervised/loop.py.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mars import interrupts
from mars.actor.trainer import CheckpointedTrainer, RestartableTrainer
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.resume import StartingPoint, none_added, starting_point
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import RunState
from mars.cluster.restarts import RestartBudget
from mars.config.schema import SftConfig, TrainConfig
from mars.errors import WorkerError, WorkerLost
from mars.fit import is_finished, last_step
from mars.run_dir.outcome import TRAIN_ON, complete_message, completed_step, finished_step
from mars.step_parts import PromptRounds
from mars.tracking.tracker import Tracker, closed_at_end
from mars.types import Prompt
from mars.versions import package_versions

logger = logging.getLogger(__name__)


class Loop(Protocol):
    """Trains from the state `start` to the last step, and returns the state after it."""

    def __call__(self, *, tracker: Tracker, checkpoints: Checkpoints, start: RunState) -> RunState: ...


@dataclass(frozen=True)
class TrainingJob:
    """What `train` needs besides the starting point.

    num_ranks: of the trainer. open_tracker: starting point -> a tracker that goes on from there.
    prompts: the training set by ids, with prompts that a sampler has added. data: the fingerprint of the training
    files.
    """

    config: TrainConfig | SftConfig
    trainer: CheckpointedTrainer
    num_ranks: int
    loop: Loop
    open_tracker: Callable[[StartingPoint], Tracker]
    catalogue: Catalogue
    prompts: Mapping[str, Prompt]
    data: str

    def newest(self) -> StartingPoint:
        return starting_point(self.catalogue, True, self.prompts, self.data, none_added)

    def checkpoints(self) -> Checkpoints:
        config = self.config
        return Checkpoints(
            self.catalogue,
            self.trainer,
            self.num_ranks,
            config.checkpoint,
            package_versions(),
            self.data,
            config.cluster.call_timeout_s,
        )


def start_unless_complete(
    config: TrainConfig | SftConfig,
    catalogue: Catalogue,
    stream: PromptRounds,
    prompts: Mapping[str, Prompt],
    data: str,
    policy: Path,
) -> StartingPoint | None:
    """As `starting_point`, but if the run is complete, log this with the folder `policy` of its policy, and return
    None."""
    events, done, hint = catalogue.events.entries(), None, "No checkpoint is left to train on from"
    if config.run.resume and catalogue.is_empty():
        done = completed_step(events, last_step(config.run, stream))
    if done is None:
        start = starting_point(catalogue, config.run.resume, prompts, data, stream.read_added)
        if (
            not is_finished(config.run, stream, start.state.step, start.state.sampling)
            or finished_step(events) != start.state.step
        ):
            return start
        done, hint = start.state.step, TRAIN_ON
    logger.info("%s", complete_message(done, policy, hint))
    return None


def train(job: TrainingJob, start: StartingPoint) -> RunState:
    """Train to the last step. Returns the state after it.

    Raises WorkerError if workers are lost too often in a row, and the errors of the loop.
    """
    try:
        return _train(job, start)
    except WorkerError as error:
        run_dir = shlex.quote(job.config.run.dir)
        raise WorkerError(f"{error}; when the cause is removed, go on with `mars resume {run_dir}`") from error


def _train(job: TrainingJob, start: StartingPoint) -> RunState:
    restarts, checkpoints = RestartBudget(), job.checkpoints()
    try:
        while True:
            try:
                return _attempt(job, start, checkpoints)
            except WorkerLost as error:
                checkpoints.abandon()
                if interrupts.reason() is not None:  # the process is ending, and its state could not be saved
                    raise
                interrupts.allow()  # still deferred if an update has failed
                start = _restart(job, start, restarts, error)
    finally:
        checkpoints.settle()


def _attempt(job: TrainingJob, start: StartingPoint, checkpoints: Checkpoints) -> RunState:
    """Train from `start` until the end or until a worker is lost."""
    if start.shards is not None:
        job.trainer.load_checkpoint(str(start.shards.absolute()))
    # The tracker is opened after the checkpoint is loaded, because opening it drops the rows of later steps, which must
    # stay if loading fails.
    with closed_at_end(job.open_tracker(start)) as tracker:
        return job.loop(tracker=tracker, checkpoints=checkpoints, start=start.state)


def _restart(job: TrainingJob, before: StartingPoint, restarts: RestartBudget, error: WorkerLost) -> StartingPoint:
    """Rebuild the trainer. Returns the newest checkpoint. If it is newer than `before`, the restart budget is
    renewed."""
    trainer = job.trainer
    if not isinstance(trainer, RestartableTrainer):
        raise error
    start = job.newest()
    if start.state.step > before.state.step:
        restarts.progress()
    while True:
        job.catalogue.events.log("worker_lost", start.state.step, worker="trainer", reason=str(error))
        restarts.spend(error)
        logger.warning("%s; the trainer is built again and goes on after step %d", error, start.state.step)
        try:
            trainer.restart()
        except WorkerLost as again:
            error = again
        else:
            job.catalogue.events.log("trainer_rebuilt", start.state.step, reason=str(error))
            return start
