"""Copy a run's metrics to Weights & Biases. One of the `copies` of `MultiTracker`: its failures do not stop a run."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.output.files import replacing
from mars.output.secrets import redact, redacted
from mars.tracking.jsonl import METRICS_FILE, finite_or_none, read_metrics
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)

RUN_ID_FILE = "run_id"
_RUN_ID = re.compile(r"[0-9a-f]{8}")
_STARTS = 3  # login, start online, start offline
_TEARDOWN_S = 2.0


@dataclass(frozen=True)
class WandbRun:
    """What a run is to wandb.

    mode: "off" sends nothing. "offline" writes to `folder`, and `wandb sync` uploads it later. "online" falls back to
        offline, with a warning, if the server cannot be reached or the login fails.
    timeout_s: how long each of login, start and finish may take.
    resumed_step: the last step whose row a resumed run keeps, None for a new run. If wandb lacks the rows up to this
        step, they are logged again from <folder>/metrics.jsonl. Offline it always lacks them: each start makes a
        record of its own, and `wandb sync` replaces the earlier records of a run id by the last one.
    """

    mode: str
    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    timeout_s: float
    resumed_step: int | None


class WandbTracker:
    """Sends the metrics of every step to one wandb run. A run that is resumed continues it: its id is kept in
    <folder>/wandb/run_id. A new run makes a new id, also if the folder has one. The environment
    variable WANDB_RUN_ID, if set, is the id in both cases.

    If a setting or the run's name holds the value of a secret environment variable such as HF_TOKEN, the value is not
    sent: wandb gets the variable's name in its place.

    The step is logged as a metric, not as wandb's own step: a resumed run may repeat steps, and wandb drops rows whose
    own step is lower than the last one. A repeated step has two rows, of which the later one counts.
    """

    def __init__(self, run: WandbRun) -> None:
        import wandb

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

        def start(mode: str) -> Any:
            return wandb.init(
                mode=mode,
                id=run_id,
                resume="allow",
                allow_val_change=True,  # settings may change where a run is resumed
                reinit="create_new",  # not the run before in this process, which may hang
                project=run.project,
                name=redact(run.name),
                dir=str(run.folder),
                config=redacted(dict(run.config)),
                settings=settings,
            )

        if run.mode == "online":
            try:
                self._run = start("online")
            except (wandb.Error, OSError) as error:
                logger.warning("wandb: %s; this run is recorded offline; `wandb sync` uploads it later", error)
                self._run = start("offline")
        else:
            self._run = start(run.mode)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if run.resumed_step is not None and not self._run.resumed and (run.folder / METRICS_FILE).is_file():
            for row in read_metrics(run.folder / METRICS_FILE).rows:
                if row["step"] <= run.resumed_step:  # later ones are on their way to `log`
                    self.log(row, row["step"])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        numbers = {key: finite_or_none(value) for key, value in metrics.items()}
        self._run.log({**{key: value for key, value in numbers.items() if value is not None}, "step": step})

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        """Does nothing: texts and images stay in the run's folder and are not uploaded."""

    def close(self) -> None:
        self._run.finish()


def _kept_run_id(path: Path) -> str | None:
    """The id in the file, None if it has none. Raises OSError."""
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

    on_start: called after the build, even if it failed: wandb may have started a process by then.
    """

    run: WandbRun
    on_start: Callable[[], object]

    @property
    def start_timeout_s(self) -> float:
        return _STARTS * self.run.timeout_s

    @property
    def call_timeout_s(self) -> float:
        return self.run.timeout_s

    def __call__(self) -> WandbTracker:
        try:
            return WandbTracker(self.run)
        finally:
            self.on_start()

    def abandon(self) -> None:
        """Kill the wandb-core processes that this process started: wandb's exit hook would wait for them forever.

        Takes at most `_TEARDOWN_S` seconds.
        """
        import psutil

        for child in psutil.Process().children():
            try:
                if child.name() == "wandb-core":
                    child.kill()
            except psutil.NoSuchProcess:
                continue
        # Takes back the exit hook, which would print a traceback, and lets a tracker that is made later start anew.
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


def wandb_factory(run: WandbRun, on_start: Callable[[], object]) -> WandbFactory | None:
    """A factory of the run's tracker; None, with a log message, if its mode is "off" or wandb is not installed.

    on_start: as `WandbFactory`'s.
    """
    if run.mode == "off":
        logger.info("wandb: off (tracking.wandb=off)")
        return None
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # no origin: only a folder named wandb, as offline runs leave behind
        logger.warning("wandb: off, because it is not installed (`pip install -e .`); metrics.jsonl has everything")
        return None
    return WandbFactory(run, on_start)
