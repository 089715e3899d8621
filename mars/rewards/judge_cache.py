"""A folder of a judge's answers, each in a file named by the sha256 of its request."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_NUM_FOLDERS = 256  # by the first two hex digits of the key
_KEEP_DRAFT_S = 3600.0  # a draft is written within seconds; the process of an older one was killed


class AnswerCache:
    """Remembers texts by key, also for later runs. Processes on several machines may share the folder.

    A file that cannot be understood (after a power cut, say) counts as missing and is replaced.

    max_entries: each of the 256 subfolders keeps the newest max_entries // 256 texts, at least one.
    """

    def __init__(self, folder: Path, max_entries: int) -> None:
        self._folder = folder
        self._most_in_folder = max(max_entries // _NUM_FOLDERS, 1)
        self._warned = False

    def get(self, key: str) -> str | None:
        """The text of a key; None if it is not there. Raises OSError for a file that is there but cannot be read."""
        content = _content(self._file(key))
        try:
            found = None if content is None else json.loads(content)
        except ValueError:
            return None
        return found["text"] if isinstance(found, dict) and found.get("key") == key else None

    def put(self, key: str, text: str) -> None:
        """Store a text. If it cannot be written, that is logged once."""
        file = self._file(key)
        draft = file.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps({"key": key, "text": text}), encoding="utf-8")
            os.replace(draft, file)
            self._delete_oldest(file.parent)
        except OSError as error:
            with suppress(OSError):  # the failure itself is what must be reported
                draft.unlink(missing_ok=True)
            if not self._warned:
                self._warned = True
                logger.warning("the judge's answers are not kept in %s: %s; this is logged once", self._folder, error)

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _delete_oldest(self, folder: Path) -> None:
        """Delete the oldest files beyond the limit of the folder, and the drafts of killed processes."""
        entries = list(os.scandir(folder))
        texts = [entry.path for entry in entries if not entry.name.startswith(".")]
        drafts = [entry.path for entry in entries if entry.name.startswith(".")]
        superfluous = len(texts) - self._most_in_folder
        oldest = sorted(_with_times(texts))[:superfluous] if superfluous > 0 else []
        too_old = (time.time() - _KEEP_DRAFT_S) * 1e9
        for _, path in [*oldest, *(draft for draft in _with_times(drafts) if draft[0] < too_old)]:
            with _another_may_delete():
                os.unlink(path)


def _content(file: Path) -> bytes | None:
    with _another_may_delete():
        try:
            return file.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return file.read_bytes()  # another machine has replaced it: the name now stands for the new file
    return None


def _with_times(files: list[str]) -> Iterator[tuple[int, str]]:
    for path in files:
        with _another_may_delete():
            yield os.stat(path).st_mtime_ns, path


@contextmanager
def _another_may_delete() -> Iterator[None]:
    """Suppresses the error for a file that is gone. On NFS that is ESTALE if another machine has deleted it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
