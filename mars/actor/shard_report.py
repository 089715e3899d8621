"""A small file in which a rank reports that its shards of a checkpoint are on the disk, or why they are not.

The driver reads it while the rank goes on training.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mars.output.digests import FileDigest
from mars.output.files import replacing

_UNREADABLE = '{"files": {}, "error": "a rank could not even write why it failed; is the disk full?"}'


@dataclass(frozen=True)
class ShardReport:
    """files: name -> digest of what the rank wrote. error: why the rank could not write its shards; None if it
    could."""

    files: Mapping[str, FileDigest]
    error: str | None


def write_report(folder: Path, rank: int, report: ShardReport) -> None:
    """Write the report. If this fails, as on a full disk, leave an empty file, which says that the rank failed.

    Raises OSError if the folder does not exist, or if the empty file cannot be made.
    """
    path = _path(folder, rank)
    if not folder.is_dir():  # the checkpoint was given up
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    try:
        with replacing(path) as draft:
            draft.write_text(json.dumps(asdict(report)))
    except OSError:
        path.touch()


def take_reports(folder: Path, num_ranks: int) -> list[ShardReport] | None:
    """The reports of all ranks; None while one is missing. Removes their files. Raises OSError."""
    paths = [_path(folder, rank) for rank in range(num_ranks)]
    if not all(path.exists() for path in paths):
        return None
    contents = [json.loads(path.read_text() or _UNREADABLE) for path in paths]
    for path in paths:
        path.unlink()
    return [
        ShardReport({name: FileDigest(**digest) for name, digest in content["files"].items()}, content["error"])
        for content in contents
    ]


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.json"
