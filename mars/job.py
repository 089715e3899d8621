"""What training and cold start share: enter the run directory, and record the attempts."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mars import interrupts
from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.checkpoint.changes import accept, changes, read_settings
from mars.checkpoint.entry import check_enterable, enter
from mars.checkpoint.resume import StartingPoint
from mars.cluster.restarts import WorkerEvent, WorkerReport
from mars.config.folders import CONFIG_FILE
from mars.config.schema import SftConfig, TrainConfig
from mars.errors import ConfigError
from mars.output.files import write_atomically
from mars.output.secrets import redacted
from mars.run_dir.attempt import start_attempt
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.lock import RunLock
from mars.run_dir.outcome import last_logged_step
from mars.run_dir.process_list import ProcessList

logger = logging.getLogger(__name__)


def check_run_dir(config: TrainConfig | SftConfig) -> None:
    """The checks of `enter_run` that create and change no file, for dry runs.

    Only warns of a folder that has another run, so that the other checks follow. Otherwise raises as `enter_run`.
    """
    try:
        check_enterable(Path(config.run.dir), config.run.resume)
    except ConfigError as error:
        logger.warning("the run would not start: %s", error)
    _accept_changes(config)


def enter_run(config: TrainConfig | SftConfig, lock: RunLock) -> Catalogue:
    """Make and lock run.dir. If its run is resumed, compare the settings with the saved ones. Return its checkpoints.

    Raises BusyError, SetupError or ConfigError as `enter` and `accept` do.
    """
    run_dir = Path(config.run.dir)
    enter(run_dir, lock, config.run.resume)
    _accept_changes(config)
    catalogue = Catalogue(run_dir / CHECKPOINTS_FOLDER, EventLog(run_dir / EVENTS_FILE))
    catalogue.check_writable()
    return catalogue


def _accept_changes(config: TrainConfig | SftConfig) -> None:
    saved = Path(config.run.dir) / CONFIG_FILE
    if config.run.resume and saved.exists():
        accept(changes(read_settings(saved, type(config)), config.dotted()))


def say_how_to_go_on(config: TrainConfig | SftConfig) -> None:
    """If `run.dir` has a run to go on with, the message of an interruption names the command for it from now on.

    Until a new run has written its config.yaml, it cannot be resumed, and the message says to start the same command
    again.
    """
    run_dir = Path(config.run.dir)
    if config.run.resume and (run_dir / CONFIG_FILE).is_file():
        _say_how_to_go_on(run_dir)


def _say_how_to_go_on(run_dir: Path) -> None:
    interrupts.say_consequence(f"to go on: mars resume {shlex.quote(str(run_dir))}")


def record_attempt(
    config: TrainConfig | SftConfig,
    overrides: Sequence[str],
    functions: Mapping[str, Any],
    start: StartingPoint,
    last: int,
    events: EventLog,
) -> ProcessList:
    """Write config.yaml and the record of this attempt; return the list of its processes. From then on the message of
    an interruption names the command to go on with. Raises SetupError.

    functions: users' functions, as mars/plugin.py records them. last: the last step that is planned.
    """
    run_dir = Path(config.run.dir)
    write_atomically(run_dir / CONFIG_FILE, yaml.safe_dump(redacted(config.model_dump()), sort_keys=False))
    _say_how_to_go_on(run_dir)
    attempt = start_attempt(run_dir, overrides, functions, config.run.resume)
    event = "started" if start.logged_step is None else "resumed"
    events.log(event, start.state.step, last_step=last, attempt=attempt.name)
    return ProcessList(attempt)


def worker_report(events: EventLog, processes: ProcessList) -> WorkerReport:
    """A function that logs lost and replaced workers as events of the run, and adds new processes to the list."""
    run_dir = processes.folder.parents[1]

    def report(event: WorkerEvent, worker: str, reason: str) -> None:
        events.log(event, last_logged_step(run_dir), worker=worker, reason=reason)
        if event == "worker_replaced":
            processes.update()

    return report
