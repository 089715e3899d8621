"""Sizes of images, kept between checks of the same files so that their headers need not be read again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType

from mars.data.pixels.images import ENCODINGS, probe_size

SETTLED_NS = 2 * 10**9  # a file changed later than this before it was read may change again in the same tick


class HeaderCache:
    """Stands in for `probe_size`. What it learns is in `path` when the block ends; only good images are kept.

    A file that has another length or modification time than then is read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[int, ...]] = {}
        self._new = False

    def __enter__(self) -> HeaderCache:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = {str(key): tuple(map(int, value)) for key, value in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}  # none yet, or not ours: everything is read
        return self

    def probe(self, source: str | bytes, encoding: str, name: str) -> tuple[int, int]:
        """(width, height), as `probe_size` gives it."""
        if not isinstance(source, str) or encoding not in ENCODINGS:
            return probe_size(source, encoding, name)
        try:
            info = os.stat(source)
        except OSError:
            return probe_size(source, encoding, name)  # which says what is wrong
        key, stamp = f"{encoding}:{source}", (info.st_size, info.st_mtime_ns)
        known = self._known.get(key)
        if known is not None and len(known) == 4 and known[:2] == stamp:
            return known[2], known[3]
        size = probe_size(source, encoding, name)
        if time.time_ns() - info.st_mtime_ns > SETTLED_NS:
            self._known[key] = (*stamp, *size)
            self._new = True
        return size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._new:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)  # a full or read-only disk costs the next check time, nothing else


def cache_file(fingerprint: str) -> Path:
    """Where the sizes of a set's images are kept, by the set's fingerprint."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mars" / "image_headers" / f"{fingerprint[:32]}.json"
