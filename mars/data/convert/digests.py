"""sha256 of images, kept while a conversion runs so that one that was interrupted need not read them all again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import Lock
from types import TracebackType

KEPT = ".image_digests.jsonl"

Stamp = tuple[int, int]
"""Bytes and modification time in nanoseconds: a file that has another of them is read again."""


class Digests:
    """Digests of files, by path. The file `KEPT` in `folder` holds them until the block ends without an exception."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / KEPT
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._lock = Lock()

    def __enter__(self) -> Digests:
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._remember(line)
        self._file = open(self._path, "a", encoding="utf-8")
        return self

    def of(self, path: str) -> str:
        """sha256 of a file, in hexadecimal. Raises OSError."""
        info = os.stat(path)
        stamp = (info.st_size, info.st_mtime_ns)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            self._known[path] = (stamp, digest)
            self._file.write(json.dumps([path, *stamp, digest]) + "\n")
        return digest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._path.unlink()

    def _remember(self, line: str) -> None:
        """A line that an interruption cut short is no line: its file is read again."""
        try:
            path, size, modified, digest = json.loads(line)
            self._known[path] = ((size, modified), digest)
        except (ValueError, TypeError, RecursionError):
            return
