"""Sizes and SHA-256 sums of files, and writes that survive a power cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileDigest:
    """size: in bytes. sha256: of the content, in hexadecimal."""

    size: int
    sha256: str


def file_digest(path: Path) -> FileDigest:
    """Size and SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(file.tell(), sha256)


def write_durably(path: Path, pieces: Iterable[bytes]) -> FileDigest:
    """Write a file piece by piece, and wait until it is on the disk. Raises OSError."""
    size, sha256 = 0, hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            sha256.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return FileDigest(size, sha256.hexdigest())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, because renaming is not durable before. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
