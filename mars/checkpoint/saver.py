"""Save checkpoints while training goes on. A step waits until the trainer has copied its tensors, and before that up to
10 s for the previous checkpoint.

save     trainer copies its state ──> training goes on
                  └── its threads write shards to .tmp-step_N and report there
thread   of `_Writing`, when all reports are there: writes state.json and the manifest, renames the folder,
         updates LATEST
later    the next save_if_due or save_now removes old checkpoints
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mars import faults, interrupts
from mars.actor.shard_report import ShardReport, take_reports
from mars.actor.trainer import CheckpointedTrainer, RestartableTrainer
from mars.checkpoint.best import missing_metric
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.manifest import Manifest
from mars.checkpoint.state import STATE_FILE, RunState, state_lines
from mars.config.run_sections import CheckpointConfig
from mars.errors import CheckpointError
from mars.output.digests import write_durably
from mars.tracking.jsonl import finite_or_none

logger = logging.getLogger(__name__)

_MAX_FAILURES = 3
_POLL_S = 0.05
_LOOK_S = 1.0
_PATIENCE_S = 10.0
"""How long a step waits for the previous checkpoint. If that takes longer, the new one is skipped."""
SHARDS_FOLDER = "trainer"


class Checkpoints:
    """Saves the run's state to `catalogue`, one checkpoint at a time.

    num_ranks: of the trainer. versions: of the packages. data: fingerprint of the training set.
    timeout_s: deadline for writing a checkpoint.
    If a checkpoint cannot be written, it is given up with a warning and counted in `failures`; the third failure in a
    row raises CheckpointError. One object serves a training to its end, so counts go on when the trainer is rebuilt.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        trainer: CheckpointedTrainer,
        num_ranks: int,
        settings: CheckpointConfig,
        versions: Mapping[str, str],
        data: str,
        timeout_s: float,
    ) -> None:
        self._catalogue, self._trainer, self._num_ranks, self._settings = catalogue, trainer, num_ranks, settings
        self._versions, self._data, self._timeout_s = versions, data, timeout_s
        self._writing: _Writing | None = None
        self._saved_step: int | None = None
        self._failures_in_a_row = 0
        self._has_warned_of_metric = False
        self.failures = 0

    def save_if_due(self, state: RunState) -> None:
        """Start a checkpoint every `checkpoint.every` steps."""
        if self._writing is not None and self._writing.done:
            self._finish()
        every = self._settings.every
        if not every or state.step % every:
            return
        if self._writing is not None and not self._writing.ends_within(_PATIENCE_S):
            logger.warning("step %d: no checkpoint, because that of step %d is still being written; a larger "
                           "checkpoint.every or a faster disk helps", state.step, self._writing.step)  # fmt: skip
            return
        self._start(state)

    def save_now(self, state: RunState) -> None:
        """Save the state, unless it is of step 0 or saved already, and wait until the saving succeeded or failed."""
        self._finish()
        if state.step > 0 and state.step != self._saved_step:
            self._start(state)
            self._finish()

    def abandon(self) -> None:
        """Give up the checkpoint that is being written, because the trainer is lost."""
        if self._writing is not None:
            self._writing.cancel()
        self._let_go()

    def settle(self) -> None:
        """After a failure of the run: wait up to 10 s for the checkpoint that is being written, then give it up.

        Raises no error, so that the error of the run is reported.
        """
        if self._writing is not None and not self._writing.ends_within(_PATIENCE_S):
            self._writing.give_up()
            self._writing.ends_within(_LOOK_S)  # a disk that hangs must not keep the run from its end
        self._let_go()

    def _let_go(self) -> None:
        if self._writing is not None and self._writing.saved:
            self._failures_in_a_row = 0
        self._writing = self._saved_step = None

    def _start(self, state: RunState) -> None:
        self._finish()  # a second copy of the state may not fit in memory
        # An interruption has to wait, because ranks that have begun a checkpoint cannot begin another before they
        # finish.
        interrupts.defer()
        try:
            self._begin(state)
        finally:
            interrupts.allow()
        faults.point("checkpoint.started")

    def _begin(self, state: RunState) -> None:
        self._warn_of_missing_metric(state)
        metrics = {name: finite_or_none(value) for name, value in state.metrics.items()}
        manifest = Manifest(state.step, {}, self._versions, self._data, metrics)
        try:
            folder = self._catalogue.draft(state.step)
            (folder / SHARDS_FOLDER).mkdir()
            # Made before the trainer writes, because this starts a thread and waits until the thread has run once. If a
            # trainer's thread in this process held the GIL meanwhile, the old and the new thread would wait for it.
            writing = _Writing(self._catalogue, manifest, state, folder, self._num_ranks, self._timeout_s)
            try:
                self._trainer.start_checkpoint(str((folder / SHARDS_FOLDER).absolute()))
            except BaseException:
                writing.cancel()
                raise
        except (OSError, CheckpointError) as error:
            self._give_up(state.step, error)
            return
        writing.begin()
        self._writing = writing

    def _finish(self) -> None:
        if self._writing is None:
            return
        while not self._writing.ends_within(_LOOK_S):
            if isinstance(self._trainer, RestartableTrainer):
                self._trainer.check_alive()  # the shards of a dead rank never come
        writing, self._writing = self._writing, None
        error = writing.wait()
        if error is not None:
            self._give_up(writing.step, error)
            return
        self._failures_in_a_row = 0
        self._saved_step = writing.step
        try:
            self._catalogue.prune(self._settings.keep_last, self._settings.keep_best)
        except OSError as error:
            logger.warning("old checkpoints cannot be removed: %s", error)

    def _warn_of_missing_metric(self, state: RunState) -> None:
        """Warn once, but not of a step that is not logged yet: it was interrupted, so its metrics are incomplete."""
        missing = missing_metric(self._settings.keep_best, state.metrics) if state.logged else None
        if missing is not None and not self._has_warned_of_metric:
            self._has_warned_of_metric = True
            logger.warning("step %d: %s", state.step, missing)

    def _give_up(self, step: int, error: Exception) -> None:
        self._catalogue.remove_draft(step)
        self._catalogue.events.log("checkpoint_failed", step, reason=str(error))
        self.failures += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _MAX_FAILURES:
            raise CheckpointError(
                f"{self._catalogue.folder}: {_MAX_FAILURES} checkpoints in a row could not be written ({error}); "
                "make room or give the run another disk, then resume with run.resume=true"
            ) from error
        logger.warning("step %d: no checkpoint: %s; training goes on", step, error)


class _Writing:
    """Waits in a thread for the shards of a checkpoint, adds the run's state, and commits it.

    The thread first waits for `begin`, called when the trainer has started to write, or `cancel`, called if it could
    not start. manifest: its `files` are filled in here. saved: whether the checkpoint is complete.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        manifest: Manifest,
        state: RunState,
        folder: Path,
        num_ranks: int,
        timeout_s: float,
    ) -> None:
        self.step = manifest.step
        self.saved = False
        self._catalogue, self._manifest, self._state, self._folder = catalogue, manifest, state, folder
        self._num_ranks, self._timeout_s = num_ranks, timeout_s
        self._error: Exception | None = None
        self._begun, self._cancelled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self._begun.set()

    def ends_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return self.done

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Exception | None:
        """Wait until the thread has ended. Returns the error because of which the checkpoint is incomplete, or None."""
        self._thread.join()
        return self._error

    def give_up(self) -> None:
        """Let the thread end without a checkpoint, unless it is about to complete one."""
        self._cancelled.set()
        self._begun.set()

    def cancel(self) -> None:
        """`give_up`, and wait until the thread has ended."""
        self.give_up()
        self._thread.join()

    def _run(self) -> None:
        self._begun.wait()
        try:
            reports = self._reports()
            if reports is None:
                return
            faults.point("checkpoint.shards_written")
            files = {f"{SHARDS_FOLDER}/{name}": digest for report in reports for name, digest in report.files.items()}
            files[STATE_FILE] = write_durably(self._folder / STATE_FILE, state_lines(self._state))
            self._catalogue.commit(replace(self._manifest, files=files))
            self.saved = True
        except Exception as error:  # noqa: BLE001 - given to whoever waits
            self._error = error

    def _reports(self) -> list[ShardReport] | None:
        """The ranks' reports; None if cancelled. Raises CheckpointError if a rank failed or the deadline has passed."""
        end = time.monotonic() + self._timeout_s
        while time.monotonic() < end:
            reports = take_reports(self._folder / SHARDS_FOLDER, self._num_ranks)
            if reports is not None:
                errors = [report.error for report in reports if report.error is not None]
                if errors:
                    raise CheckpointError(errors[0])
                return reports
            if not self._folder.is_dir():
                raise CheckpointError(f"{self._folder} is gone")
            if self._cancelled.wait(_POLL_S):
                return None
        raise CheckpointError(f"not written within {self._timeout_s:g} s")
