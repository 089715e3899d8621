"""The manifest of a checkpoint: its files, with their sizes and SHA-256 sums. Written last.

The loaders of torch and safetensors do not notice a flipped byte, so every file is compared with its sum before it is
read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mars.errors import CheckpointError, UnreadableCheckpoint
from mars.output.digests import FileDigest, file_digest, write_durably

MANIFEST_FILE = "MANIFEST.json"
FORMAT = 3
_SUM = "manifest_sha256"
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""The errors which say that a file is missing. After any other error of reading, the file may still be undamaged."""


@dataclass(frozen=True)
class Manifest:
    """step: the training step after which the checkpoint was made.

    files: name in the folder -> digest, for every file except the manifest.
    versions: of the packages that wrote it. data: fingerprint of the training set.
    metrics: of the step, evaluation included, for `checkpoint.keep_best`.
    """

    step: int
    files: Mapping[str, FileDigest]
    versions: Mapping[str, str]
    data: str
    metrics: Mapping[str, float | None]

    def size(self) -> int:
        """Bytes of all files."""
        return sum(digest.size for digest in self.files.values())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder. Raises OSError."""
    content = {"format": FORMAT, **asdict(manifest)}
    content[_SUM] = _sum_of(content)
    write_durably(folder / MANIFEST_FILE, [(json.dumps(content, indent=1, sort_keys=True) + "\n").encode()])


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder. Raises CheckpointError, naming the file, if it is missing or damaged.

    The error is an UnreadableCheckpoint if the file cannot be read or has another format.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        kind = CheckpointError if isinstance(error, _MISSING) else UnreadableCheckpoint
        raise kind(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: no JSON") from error
    if not isinstance(content, dict) or content.pop(_SUM, None) != _sum_of(content):
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
    if content.pop("format", None) != FORMAT:
        raise UnreadableCheckpoint(f"{path}: written in another format; this version of mars reads format {FORMAT}")
    try:
        files = {name: FileDigest(**digest) for name, digest in content.pop("files").items()}
        return Manifest(files=files, **content)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: not the content of a manifest") from error


def file_problems(folder: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """The damaged or missing files of a checkpoint, and the files that cannot be read: two lists of "name: reason"."""
    damaged, unreadable = [], []
    for name, expected in manifest.files.items():
        try:
            found = file_digest(folder / name)
        except OSError as error:
            problems = damaged if isinstance(error, _MISSING) else unreadable
            problems.append(f"{name}: cannot be read ({error.strerror})")
            continue
        if found.size != expected.size:
            damaged.append(f"{name}: {found.size} bytes instead of {expected.size}")
        elif found != expected:
            damaged.append(f"{name}: its content has changed since it was written")
    return damaged, unreadable


def _sum_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
