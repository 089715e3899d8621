"""Identify encoded images by the SHA-256 of their bytes.

`FirstContents` reads the images on the driver's node; `ContentCache` keeps copies on the nodes that need them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from mars.data.pixels.stored import BadImage, Place, encoded_image

logger = logging.getLogger(__name__)

_RECENT_BYTES = 2**26
_PARTS = 16  # parts of a cache; a full cache drops its whole oldest part


class FirstContents:
    """Reads images, and refuses an image whose content has changed since its first reading.

    So no two processes of a run see different pixels. `digest` reads an image again only if the length or modification
    time of its file changed; `content` checks the hash of all bytes that it reads. Safe to call from several threads.

    recent_bytes: how many bytes of contents stay in memory. An image that is still there is not read again for a node
        that needs it.
    record: a file of the hashes. If this process dies, the process that replaces it reads them from there. With None,
        the new process does not notice an image that changed before the new process started.
    """

    def __init__(
        self,
        read: Callable[[Place], bytes] = encoded_image,
        recent_bytes: int = _RECENT_BYTES,
        record: Path | None = None,
    ) -> None:
        self._read, self._free = read, recent_bytes
        self._record = None if record is None else _Record(record)
        self._known: dict[Place, _Known] = {} if self._record is None else self._record.load()
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def digest(self, place: Place) -> bytes:
        """The SHA-256 of the image's bytes. Raises BadImage if the image cannot be read, or has changed."""
        stamp = _stamp(place)
        known = self._known.get(place)
        if known is not None and known[0] == stamp:
            return known[1]
        content = self._read(place)
        digest = hashlib.sha256(content).digest()
        with self._lock:
            _, first = self._known.get(place, (stamp, digest))
            if digest != first:
                raise changed(place)
            if self._record is not None:
                self._record.add(place, (stamp, digest))
            self._known[place] = (stamp, digest)
        self._remember(digest, content)
        return digest

    def content(self, place: Place) -> bytes:
        """The image's bytes, whose SHA-256 is `digest(place)`. Raises BadImage."""
        digest = self.digest(place)
        with self._lock:
            if digest in self._recent:
                return self._recent[digest]
        content = self._read(place)
        if hashlib.sha256(content).digest() != digest:
            raise changed(place)
        return content

    def _remember(self, digest: bytes, content: bytes) -> None:
        with self._lock:
            if digest in self._recent:
                return
            self._recent[digest] = content
            self._free -= len(content)
            while self._free < 0:
                _, oldest = self._recent.popitem(last=False)
                self._free += len(oldest)


def changed(place: Place) -> BadImage:
    return BadImage("changed", f"{place.name}: the image changed after the run had read it")


_Known = tuple[tuple[int, int], bytes]
"""Length and modification time of the file, and the SHA-256 of the image."""


class _Record:
    """A file of lines, each with a place and its `_Known`. If a place has several lines, the last one counts.

    A newline is written before each line. So a line that was cut off, for example by a full disk, does not damage the
    next line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._is_full = False

    def load(self) -> dict[Place, _Known]:
        found: dict[Place, _Known] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    path, row, slot, size, modified, digest = json.loads(line)
                except ValueError:  # cut off
                    continue
                found[Place(path, row, slot)] = (size, modified), bytes.fromhex(digest)
        return found

    def add(self, place: Place, known: _Known) -> None:
        """Append a line. If that fails, log a warning once."""
        line = json.dumps([*place, *known[0], known[1].hex()])
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(self._file, f"\n{line}".encode())
        except OSError as error:
            if not self._is_full:
                logger.warning("images that change are noticed only until this process is started again: %s", error)
            self._is_full = True


def _stamp(place: Place) -> tuple[int, int]:
    try:
        info = os.stat(place.path)
    except OSError as error:
        raise BadImage("missing", f"{place.name}: no such image ({error.strerror})") from error
    return info.st_size, info.st_mtime_ns


class ContentCache:
    """Contents by their SHA-256, on disk, in at most `max_bytes`. The oldest contents are dropped first.

    The files are temporary and have no name: no other process can open them, and the system frees them however this
    process ends. Not safe to use from several threads.
    """

    def __init__(self, max_bytes: int, folder: str | None = None) -> None:
        """folder: where the files are; None for the system's folder of temporary files."""
        self._part_bytes, self._folder = max(max_bytes // _PARTS, 1), folder
        self._max_bytes = max_bytes
        self._parts: list[tuple[BinaryIO, list[bytes]]] = []  # the oldest first, each with its digests
        self._places: dict[bytes, tuple[BinaryIO, int, int]] = {}
        self.num_bytes = 0

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def put(self, digest: bytes, content: bytes) -> None:
        """Keep `content`, unless it is larger than the cache.

        Raises ValueError if `digest` is not the SHA-256 of `content`, and OSError if the disk is full.
        """
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("the content of an image is not what its hash says")
        if digest in self._places or len(content) > self._max_bytes:
            return
        while self.num_bytes + len(content) > self._max_bytes:
            self._drop_oldest()
        if not self._parts or self._parts[-1][0].seek(0, os.SEEK_END) >= self._part_bytes:
            self._parts.append((tempfile.TemporaryFile(buffering=0, dir=self._folder), []))  # noqa: SIM115 (kept open)
        file, digests = self._parts[-1]
        start = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, content)
        except OSError:
            file.truncate(start)
            raise
        digests.append(digest)
        self._places[digest] = (file, start, len(content))
        self.num_bytes += len(content)

    def get(self, digest: bytes) -> bytes | None:
        """The content; None if it is not in the cache, or if the disk returns other bytes than were written."""
        if digest not in self._places:
            return None
        file, start, length = self._places[digest]
        content = os.pread(file.fileno(), length, start)
        if hashlib.sha256(content).digest() != digest:
            del self._places[digest]
            return None
        return content

    def _drop_oldest(self) -> None:
        file, digests = self._parts.pop(0)
        self.num_bytes -= file.seek(0, os.SEEK_END)
        for digest in digests:
            if digest in self._places and self._places[digest][0] is file:  # it may have been written again since
                del self._places[digest]
        file.close()


def _write_all(file: BinaryIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
