"""Cache image sizes, so that a second check of the same files does not read their headers again."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from mars.data.pixels.images import ENCODINGS, probe_size
from mars.output.files import read_regular, replacing

SETTLED_NS = 2 * 10**9  # a file that changed less than 2 s ago may change again within the same modification time


class HeaderCache:
    """A context manager whose `probe` is `probe_size` with a cache. The file `path` is written when the block ends.

    Caches the sizes of images without a problem. A cached size is used while the length and modification time of the
    image's file stay the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[int, ...]] = {}
        self._new = False

    def __enter__(self) -> HeaderCache:
        try:
            stored = json.loads(read_regular(self._path))
            self._known = {str(key): tuple(map(int, value)) for key, value in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}  # there is no cache yet, or the file is not a cache
        return self

    def probe(self, source: str | bytes, encoding: str, name: str) -> tuple[int, int]:
        """(width, height), as `probe_size` gives it."""
        if not isinstance(source, str) or encoding not in ENCODINGS:
            return probe_size(source, encoding, name)
        try:
            info = os.stat(source)
        except OSError:
            return probe_size(source, encoding, name)  # raises BadImage with the reason
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
        # If the disk is full or read-only, the next check only takes longer.
        with suppress(OSError), replacing(self._path) as draft:
            draft.write_text(json.dumps(self._known), encoding="utf-8")


def cache_file(fingerprint: str) -> Path:
    """The cache file of the data set with this fingerprint."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mars" / "image_headers" / f"{fingerprint[:32]}.json"
