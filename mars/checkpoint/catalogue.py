"""The checkpoints in a run's folder. A checkpoint is either complete or does not exist.

.tmp-step_000012/       being written; removed at the next start
step_000012/            complete: renamed after its manifest is on the disk
LATEST                  the name of the newest one, for people and scripts; mars itself looks at the folders

Anything else whose name begins with step_ (a folder without a manifest, a file, a name without six digits) is never
loaded. The log names it if it might be taken for a newer checkpoint. mars changes only LATEST and
what has a name that begins with step_ or .tmp-.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mars import faults
from mars.checkpoint.manifest import MANIFEST_FILE, Manifest, file_problems, read_manifest, write_manifest
from mars.errors import CheckpointError, UnreadableCheckpoint
from mars.output.digests import sync_folder
from mars.output.files import check_writable, replacing
from mars.output.text import shorten
from mars.run_dir.events import EventLog

logger = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
LATEST_FILE = "LATEST"
_PREFIX = "step_"
_NAME = re.compile(r"step_([0-9]{6}|[1-9][0-9]{6,})")
_DRAFT = ".tmp-"
_LATEST_CHARS = 80


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint whose files have their original contents."""

    folder: Path
    manifest: Manifest


class Catalogue:
    """The checkpoints in one folder, which need not exist. events: log of what happens to them."""

    def __init__(self, folder: Path, events: EventLog | None = None) -> None:
        self.folder = folder
        self.events = EventLog(None) if events is None else events
        self._device: int | None = None
        # Steps that `newest` could not load.
        self._left_out: set[int] = set()
        # Those of them that are damaged. The others only cannot be read now, and may be undamaged.
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending. Does not read their files."""
        return [step for step in self._named() if self._has_manifest(step)]

    def without_manifest(self) -> list[Path]:
        """Paths that are named like a checkpoint but are none: half removed, without a manifest, or not a folder."""
        return [self.path(step) for step in self._named() if not self._has_manifest(step)]

    def is_empty(self) -> bool:
        """Whether nothing is named like a checkpoint."""
        return not self._named()

    def path(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:06d}"

    def load(self, step: int) -> Checkpoint:
        """Raises CheckpointError, naming every bad file, unless all files have their original contents.

        The error is an UnreadableCheckpoint if no file is damaged or missing, but a file cannot be read.
        """
        folder = self.path(step)
        manifest = read_manifest(folder)
        damaged, unreadable = file_problems(folder, manifest)
        if manifest.step != step:
            damaged.append(f"{MANIFEST_FILE}: it is of step {manifest.step}")
        if damaged or unreadable:
            kind = CheckpointError if damaged else UnreadableCheckpoint
            raise kind("; ".join(f"{folder}/{problem}" for problem in [*damaged, *unreadable]))
        return Checkpoint(folder, manifest)

    def newest(self, read: Callable[[Checkpoint], None] = lambda checkpoint: None) -> Checkpoint | None:
        """The newest checkpoint that can be loaded; None if nothing is named like a checkpoint.

        read: reads what the caller needs of a checkpoint. If it raises UnreadableCheckpoint, the checkpoint counts as
            one that cannot be loaded.
        Newer checkpoints that cannot be loaded are left out and logged.

        Raises CheckpointError if something is named like a checkpoint, but no checkpoint can be loaded.
        """
        problems, all_damaged = [], True
        self._left_out = set(self._damaged)  # what could not be read may be readable again
        for name in self._misnamed():
            logger.warning("%s is left out: a checkpoint is named step_ and its step in six digits", self.folder / name)
        for step in reversed(self._named()):
            self._forget(step)
            try:
                checkpoint = self.load(step)
                read(checkpoint)
                return checkpoint
            except CheckpointError as error:
                damaged = not isinstance(error, UnreadableCheckpoint)
                kind = "a damaged checkpoint" if damaged else "a checkpoint that cannot be read"
                logger.warning("%s is left out: %s", kind, error)
                self.events.log("checkpoint_damaged", step, reason=str(error))
                self._left_out.add(step)
                self._damaged.update({step} if damaged else ())
                problems.append(str(error))
                all_damaged &= damaged
        if problems:
            what = "every checkpoint is damaged" if all_damaged else "no checkpoint can be loaded"
            raise CheckpointError(
                f"{self.folder}: {what}: {'; '.join(problems)}; "
                "restore one of them from a copy, or start a new run in another run.dir"
            )
        return None

    def _forget(self, step: int) -> None:
        self._left_out.discard(step)
        self._damaged.discard(step)

    def draft(self, step: int) -> Path:
        """An empty folder to write the checkpoint of a step to.

        Raises OSError, for example if the disk with the earlier checkpoints has been unmounted. A new checkpoint would
        then be written to the empty folder at the mount point, and be hidden when the disk is mounted again.
        """
        folder, device = self._draft(step), _device(self.folder)
        if self._device is None:
            self._device = device
        elif device != self._device and not self.steps():
            raise OSError(errno.ENODEV, f"{self.folder} is on another disk than before; mount that one again")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def check_writable(self) -> None:
        """Make the folder. Raises SetupError if no checkpoint can be written there."""
        check_writable(self.folder / LATEST_FILE, "run.dir")

    def commit(self, manifest: Manifest) -> Path:
        """Turn the draft of `manifest.step` into a checkpoint. Its files must be on the disk. Raises OSError."""
        draft, target = self._draft(manifest.step), self.path(manifest.step)
        faults.point("checkpoint.before_manifest")
        write_manifest(draft, manifest)
        sync_folder(draft)
        faults.point("checkpoint.before_rename")
        if target.is_dir() and not target.is_symlink():  # a damaged one of an earlier attempt
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        os.rename(draft, target)
        self._forget(manifest.step)
        sync_folder(self.folder)
        faults.point("checkpoint.before_latest")
        self._write_latest(target.name)
        self.events.log("checkpoint_saved", manifest.step, bytes=manifest.size())
        return target

    def correct_latest(self, newest: str) -> None:
        """Write `newest` to LATEST if LATEST does not name it."""
        path = self.folder / LATEST_FILE
        try:
            named = path.read_bytes().decode(errors="replace").strip() or "nothing"
        except OSError as error:
            named = f"nothing ({error.strerror})"
        if named == newest:
            return
        logger.info("%s named %s; it names %s now", path, shorten(named, _LATEST_CHARS), newest)
        try:
            self._write_latest(newest)
        except OSError as error:
            logger.warning("%s: cannot be written (%s)", path, error.strerror)

    def _write_latest(self, name: str) -> None:
        with replacing(self.folder / LATEST_FILE) as latest:
            latest.write_text(f"{name}\n")

    def remove_draft(self, step: int) -> None:
        shutil.rmtree(self._draft(step), ignore_errors=True)

    def remove_drafts(self) -> None:
        """Remove drafts that an earlier attempt has not finished."""
        for draft in self.folder.glob(f"{_DRAFT}*") if self.folder.is_dir() else ():
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)

    def prune(self, keep_last: int, keep_best: str | None) -> list[int]:
        """Remove all but the newest `keep_last` checkpoints and the best one; returns the steps that were removed.

        Checkpoints that `newest` has found damaged are removed too. Those that it could not read stay. Neither kind
        counts towards `keep_last`.
        keep_best: a metric of the checkpoints' steps. The best checkpoint is the one with the largest value or,
        if the metric's name ends in "/loss", with the smallest.
        """
        removed = self.superfluous(keep_last, keep_best)
        self.remove(removed)
        return removed

    def superfluous(self, keep_last: int, keep_best: str | None) -> list[int]:
        """The steps that `prune` removes, ascending."""
        steps = [step for step in self.steps() if step not in self._left_out]
        kept = {*steps[-keep_last:], *self._best(steps, keep_best)}
        damaged = [step for step in self._damaged if self.path(step).is_dir()]
        return sorted({*steps, *damaged} - kept)

    def remove(self, steps: Iterable[int]) -> None:
        """Remove what can be removed, then raise the first OSError, if any. Targets of links stay."""
        failures = []
        for step in steps:
            try:
                self._remove(self.path(step))
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    @staticmethod
    def _remove(folder: Path) -> None:
        if folder.is_symlink():
            folder.unlink()
            return
        # A folder without a manifest is not a checkpoint, so a half removed one is never loaded.
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def _best(self, steps: Sequence[int], metric: str | None) -> list[int]:
        if metric is None:
            return []
        values: dict[int, float] = {}
        for step in steps:
            try:
                value = read_manifest(self.path(step)).metrics.get(metric)
            except CheckpointError:  # reported by whoever loads it
                continue
            if value is not None and math.isfinite(value):
                values[step] = value
        sign = -1 if metric.endswith("/loss") else 1
        return [max(values, key=lambda step: (sign * values[step], step))] if values else []

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def _named(self) -> list[int]:
        """The steps of everything that is named like a checkpoint, complete or not, ascending."""
        return sorted(int(match[1]) for name in self._names() if (match := _NAME.fullmatch(name)))

    def _misnamed(self) -> list[str]:
        return [name for name in self._names() if name.startswith(_PREFIX) and not _NAME.fullmatch(name)]

    def _has_manifest(self, step: int) -> bool:
        return os.path.isfile(self.path(step) / MANIFEST_FILE)  # also False where it may not be looked at

    def _draft(self, step: int) -> Path:
        return self.folder / f"{_DRAFT}{_PREFIX}{step:06d}"


def _device(path: Path) -> int:
    """The disk of a folder, or of the nearest existing folder above it."""
    existing = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))
    return existing.stat().st_dev
