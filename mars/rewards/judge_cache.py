"""A folder of a judge's answers, each in a file named by the sha256 of its request."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_NUM_FOLDERS = 256  # by the first two hex digits of the key


class AnswerCache:
    """Remembers texts by key, also for later runs. Processes on several machines may share the folder.

    There are no locks: a file is written beside its place and renamed, and whoever reads it finds all of it or nothing.
    A file that cannot be understood (after a power cut, say) counts as missing and is replaced.

    max_entries: about this many texts are kept; the oldest are deleted first.
    """

    def __init__(self, folder: Path, max_entries: int) -> None:
        self._folder = folder
        self._most_in_folder = max(max_entries // _NUM_FOLDERS, 1)
        self._warned = False

    def get(self, key: str) -> str | None:
        """Raises OSError for a file that is there but cannot be read."""
        try:
            found = json.loads(self._file(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found["text"] if isinstance(found, dict) and found.get("key") == key else None

    def put(self, key: str, text: str) -> None:
        """A text that cannot be written is only missing: that is logged once, and the judge is asked again."""
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
        """Deletes the oldest files beyond the folder's limit, drafts of killed processes among them."""
        files = [entry.path for entry in os.scandir(folder)]
        superfluous = len(files) - self._most_in_folder
        if superfluous > 0:
            for path in sorted(_with_times(files))[:superfluous]:
                Path(path[1]).unlink(missing_ok=True)


def _with_times(files: list[str]) -> Iterator[tuple[int, str]]:
    for path in files:
        with suppress(FileNotFoundError):  # another process has deleted it
            yield os.stat(path).st_mtime_ns, path
