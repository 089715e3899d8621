"""Save checkpoints while training goes on: the step waits only until the trainer has copied its tensors.

save    trainer copies its state ──> training goes on
                 └── threads write shards to .tmp-step_N
next call: shards written? ──> manifest, rename, LATEST, remove old ones
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mars import faults
from mars.actor.trainer import PolicyTrainer
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.manifest import Manifest
from mars.checkpoint.state import STATE_FILE, RunState, state_to_json
from mars.config.run_sections import CheckpointConfig
from mars.errors import CheckpointError
from mars.output.digests import FileDigest, write_durably
from mars.tracking.jsonl import finite_or_none

logger = logging.getLogger(__name__)

_MAX_FAILURES = 3
SHARDS_FOLDER = "trainer"


@dataclass(frozen=True)
class _Pending:
    """A checkpoint whose shards are being written. state: digest of the file with the run's state."""

    step: int
    state: FileDigest
    metrics: Mapping[str, float | None]


class Checkpoints:
    """Saves the run's state to `catalogue`.

    versions: of the packages. data: fingerprint of the training set; both go into the manifest.
    A checkpoint that cannot be written is given up with a warning and counted in `failures`; the third in a row raises
    CheckpointError.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        trainer: PolicyTrainer,
        settings: CheckpointConfig,
        versions: Mapping[str, str],
        data: str,
    ) -> None:
        self._catalogue, self._trainer, self._settings = catalogue, trainer, settings
        self._versions, self._data = versions, data
        self._pending: _Pending | None = None
        self._saved_step: int | None = None
        self._failures_in_a_row = 0
        self.failures = 0

    def save_if_due(self, state: RunState) -> None:
        """Start a checkpoint every `checkpoint.every` steps; complete the one before as soon as it is written."""
        self._complete(wait=False)
        every = self._settings.every
        if every and state.step % every == 0:
            self._start(state)

    def save_now(self, state: RunState) -> None:
        """Save the state, unless it is saved, and wait until the checkpoint is complete."""
        self._complete(wait=True)
        if state.step > 0 and state.step != self._saved_step:
            self._start(state)
            self._complete(wait=True)

    def _start(self, state: RunState) -> None:
        self._complete(wait=True)  # one at a time: a second copy of the state may not fit in memory
        try:
            folder = self._catalogue.draft(state.step)
            (folder / SHARDS_FOLDER).mkdir()
            digest = write_durably(folder / STATE_FILE, state_to_json(state))
            self._trainer.start_checkpoint(str((folder / SHARDS_FOLDER).absolute()))
        except (OSError, CheckpointError) as error:
            self._give_up(state.step, error)
            return
        self._pending = _Pending(state.step, digest, {k: finite_or_none(v) for k, v in state.metrics.items()})
        faults.point("checkpoint.started")

    def _complete(self, wait: bool) -> None:
        pending = self._pending
        if pending is None:
            return
        try:
            shards = self._trainer.finish_checkpoint(wait)
            if shards is None:
                return
            self._pending = None
            files = {STATE_FILE: pending.state, **{f"{SHARDS_FOLDER}/{name}": d for name, d in shards.items()}}
            manifest = Manifest(pending.step, files, self._versions, self._data, pending.metrics)
            self._catalogue.commit(manifest)
        except (OSError, CheckpointError) as error:
            self._pending = None
            self._give_up(pending.step, error)
            return
        self._failures_in_a_row = 0
        self._saved_step = pending.step
        try:
            self._catalogue.prune(self._settings.keep_last, self._settings.keep_best)
        except OSError as error:
            logger.warning("old checkpoints cannot be removed: %s", error)

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
