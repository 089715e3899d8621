"""Copy a run's metrics and sampled rollouts to Weights & Biases."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mars.errors import ConfigError
from mars.output.files import replacing
from mars.tracking.jsonl import METRICS_FILE, finite_or_none, read_metrics
from mars.tracking.pictures import RolloutPictures
from mars.tracking.sources import source_curves
from mars.tracking.tracker import TrackedRun, start_allowance
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)

RUN_ID_FILE = "run_id"
_RUN_ID = re.compile(r"[0-9a-f]{8}")
_MODE = "WANDB_MODE"
Mode = Literal["offline", "online", "disabled"]
DISABLED = "disabled"
MODES: tuple[Mode, ...] = ("offline", "online", DISABLED)
_TEARDOWN_S = 2.0


class WandbTracker:
    """Sends the metrics of every step, and pictures of sampled rollouts, to one wandb run. A resumed run continues the
    wandb run whose id is in <folder>/wandb/run_id; a new run makes a new id. If the environment variable WANDB_RUN_ID
    is set, it is the id in both cases.

    mode: "offline" writes to the run's folder, and `wandb sync` uploads it later. "online" falls back to offline, with
        a warning, if the server cannot be reached or the login fails.
    run: its timeout_s limits each of login, start and finish. If wandb lacks the rows up to run.resumed_step, they
        are logged again from <folder>/metrics.jsonl. Offline it always lacks them: each start makes its own record, and
        `wandb sync` replaces the earlier records of a run id by the last one.
    pictures: None draws no rollouts.

    The step is logged as a metric, not as wandb's own step. A resumed run may repeat steps, and wandb drops rows whose
    own step is lower than the last one. A repeated step has two rows, of which the later one counts.
    """

    def __init__(self, run: TrackedRun, mode: Mode, pictures: RolloutPictures | None) -> None:
        # Without this, wandb sends statistics of its own use, even offline, and the end of the process waits for a
        # server that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._image, self._pictures = wandb.Image, pictures

        # Only the user can read wandb's own logs.
        (run.folder / "wandb").mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = wandb.Settings(
            init_timeout=run.timeout_s,
            login_timeout=run.timeout_s,
            finish_timeout=run.timeout_s,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
        )

        id_file = run.folder / "wandb" / RUN_ID_FILE
        kept = None if run.resumed_step is None else _kept_run_id(id_file)
        run_id = os.environ.get("WANDB_RUN_ID") or kept or _new_run_id(id_file)

        def start(how: Mode) -> Any:
            return wandb.init(
                mode=how,
                id=run_id,
                resume="allow",
                allow_val_change=True,  # settings may change where a run is resumed
                reinit="create_new",  # an earlier wandb run of this process may hang
                project=run.project,
                name=run.name,
                dir=str(run.folder),
                config=dict(run.config),
                settings=settings,
            )

        if mode == "online":
            try:
                self._run = start("online")
            except (wandb.Error, OSError) as error:
                logger.warning("wandb: %s; this run is recorded offline; `wandb sync` uploads it later", error)
                stop_service()  # it still has the run of this id
                self._run = start("offline")
        else:
            self._run = start(mode)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if run.resumed_step is not None and not self._run.resumed and (run.folder / METRICS_FILE).is_file():
            for row in read_metrics(run.folder / METRICS_FILE).rows:
                if row["step"] <= run.resumed_step:  # `log` gets the later ones from the queue
                    self.log(row, row["step"])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        numbers = {key: finite_or_none(value) for key, value in {**metrics, **source_curves(metrics)}.items()}
        self._run.log({**{key: value for key, value in numbers.items() if value is not None}, "step": step})

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        pictures = [] if self._pictures is None else self._pictures(rollouts, step)
        if pictures:
            self._run.log({**{one.tag: self._image(one.image, caption=one.caption) for one in pictures}, "step": step})

    def close(self) -> None:
        self._run.finish()

    def close_failed(self) -> None:
        self._run.finish(exit_code=1)


def _kept_run_id(path: Path) -> str | None:
    """The id in the file; None if there is none. Raises OSError."""
    try:
        kept = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return kept if _RUN_ID.fullmatch(kept) else None


def _new_run_id(path: Path) -> str:
    """A new id, which is written to the file. Raises OSError."""
    made = secrets.token_hex(4)
    with replacing(path) as draft:
        draft.write_text(f"{made}\n", encoding="ascii")
    return made


@dataclass(frozen=True)
class WandbFactory:
    """Builds a `WandbTracker` in the thread that calls it.

    on_start: tells the caller that wandb may have started a process. Called after the build, even if it failed.
    """

    run: TrackedRun
    mode: Mode
    pictures: RolloutPictures | None
    on_start: Callable[[], object]

    @property
    def start_timeout_s(self) -> float:
        return start_allowance(self.run.timeout_s)

    @property
    def call_timeout_s(self) -> float:
        return self.run.timeout_s

    def __call__(self) -> WandbTracker:
        try:
            return WandbTracker(self.run, self.mode, self.pictures)
        finally:
            self.on_start()

    def abandon(self) -> None:
        """Kill wandb's service, because wandb's exit hook would wait forever for a service that hangs."""
        stop_service()


def stop_service() -> None:
    """Kill the wandb-core processes that this process started. The next run of wandb starts a new one.

    Takes at most `_TEARDOWN_S` seconds.
    """
    import psutil

    for child in psutil.Process().children():
        try:
            if child.name() == "wandb-core":
                child.kill()
        except psutil.NoSuchProcess:
            continue
    # Removes wandb's exit hook, which would print a traceback, so that a later tracker can start wandb again.
    teardown = getattr(sys.modules.get("wandb"), "teardown", None)
    if teardown is not None:
        thread = threading.Thread(target=_quietly, args=(teardown,), name="wandb-teardown", daemon=True)
        thread.start()
        thread.join(_TEARDOWN_S)


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.debug("wandb could not be torn down", exc_info=True)


def wandb_mode() -> Mode:
    """The value of the environment variable WANDB_MODE; "offline" if it is not set. Raises ConfigError."""
    given = os.environ.get(_MODE) or "offline"
    for mode in MODES:
        if given == mode:
            return mode
    raise ConfigError(f"{_MODE}: not one of the modes; got {given!r}; give {', '.join(MODES)}")
