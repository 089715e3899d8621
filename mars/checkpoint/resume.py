"""Where a run starts: at its beginning, or at its newest checkpoint that can be loaded."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mars.checkpoint.catalogue import Catalogue, Checkpoint
from mars.checkpoint.saver import SHARDS_FOLDER
from mars.checkpoint.state import START, STATE_FILE, RunState, StoredState, stored_state, with_prompts
from mars.errors import CheckpointError, UnreadableCheckpoint
from mars.types import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartingPoint:
    """state: what training starts from. shards: folder for `PolicyTrainer.load_checkpoint`; None for a new policy.

    logged_step: the last step whose row of metrics.jsonl stays; None for a new run.
    """

    state: RunState
    shards: Path | None
    logged_step: int | None


def data_fingerprint(prompt_ids: Iterable[str]) -> str:
    """Fingerprint of the prompts in their order. The ids suffice: they hash the data files and the rows' places."""
    return hashlib.sha256("\n".join(prompt_ids).encode()).hexdigest()


def none_added(snapshots: Iterable[str]) -> None:
    """Does nothing. `starting_point` is called with it as `read_added` if `prompts` already has all rows that a
    sampler had added."""


def starting_point(
    catalogue: Catalogue,
    resume: bool,
    prompts: Mapping[str, Prompt],
    data: str,
    read_added: Callable[[Iterable[str]], None],
) -> StartingPoint:
    """prompts: the training set by ids. data: its fingerprint.

    read_added: called with the checkpoint's snapshots of the hooks, before its prompts are looked up. It adds to
        `prompts` those that a sampler had added during the run.

    Checkpoints whose state cannot be read are left out, like damaged ones (`Catalogue.newest`). A run to be resumed
    that never saved a checkpoint starts again. Raises CheckpointError if all checkpoints that it saved are gone or
    damaged, or if the data has changed.
    """
    if not resume:
        return StartingPoint(START, None, None)
    catalogue.remove_drafts()
    stored: list[StoredState] = []
    checkpoint = catalogue.newest(lambda found: stored.append(_stored_in(found)))
    if checkpoint is None:
        _check_none_was_saved(catalogue)
        logger.warning("%s: no checkpoint yet; the run starts at its beginning", catalogue.folder)
        return StartingPoint(START, None, -1)
    _check_data(checkpoint, data)
    read_added(stored[0].hooks)
    state = with_prompts(stored[0], prompts)
    catalogue.correct_latest(checkpoint.folder.name)
    logger.info("resuming after step %d from %s", state.step, checkpoint.folder)
    return StartingPoint(state, checkpoint.folder / SHARDS_FOLDER, state.step if state.logged else state.step - 1)


def _check_none_was_saved(catalogue: Catalogue) -> None:
    """Raises CheckpointError if the run's events say that a checkpoint was saved or that the run ended: to start again
    would erase the record of this run."""
    told = [entry for entry in catalogue.events.entries() if entry["event"] in ("checkpoint_saved", "finished")]
    if told:
        raise CheckpointError(
            f"{catalogue.folder}: no checkpoint is there, but the run got to step {told[-1]['step']}, as its events "
            "say; mount the disk of the checkpoints or restore one from a copy, then go on with run.resume=true; or "
            "start a new run in another run.dir"
        )


def _check_data(checkpoint: Checkpoint, data: str) -> None:
    if checkpoint.manifest.data != data:
        raise CheckpointError(
            f"{checkpoint.folder}: it was trained on other rows than data.train_files has now; resume with the files "
            "that the run was started with, or start a new run from its policy (model.path)"
        )


def _stored_in(checkpoint: Checkpoint) -> StoredState:
    """The state in a checkpoint. Raises UnreadableCheckpoint."""
    try:
        with (checkpoint.folder / STATE_FILE).open("rb") as lines:
            return stored_state(lines)
    except OSError as error:
        raise UnreadableCheckpoint(f"{checkpoint.folder}/{STATE_FILE}: cannot be read ({error.strerror})") from error
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{checkpoint.folder}/{error}") from error
