"""Find the images of a JSON file whose paths were written on another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from mars.data.rows.columns import URL

SAMPLED = 500  # paths that are looked up to choose a rule


@dataclass(frozen=True)
class PathRule:
    """How to convert the image paths in a file of records: remove the first `drop` parts, and prepend `folder`."""

    drop: int
    folder: str

    def __call__(self, path: str) -> str:
        """The path relative to the image root, with "/" between its parts. URLs, paths with "..", and paths of at most
        `drop` parts are returned unchanged."""
        if (self.drop == 0 and not self.folder and "\\" not in path) or not self.fits(path):
            return path
        return PurePosixPath(self.folder, *_parts(path)[self.drop :]).as_posix()

    def fits(self, path: str) -> bool:
        parts = _parts(path)
        return len(parts) > self.drop and ".." not in parts and not URL.match(path)


def find_rule(paths: Iterable[str], root: Path, folders: Sequence[str]) -> PathRule:
    """The rule with which more paths exist below `root` than with any other rule; on a tie, the one that drops least.

    Tries at most `SAMPLED` of the paths. folders: folders below the root that may have the images.

    Example: "data/images/LLVIP/visible/test/1.jpg" and the root /data/LLVIP, which holds visible/test/1.jpg: drop 3.
    """
    sample = list(islice(dict.fromkeys(paths), SAMPLED))
    longest = max((len(_parts(path)) for path in sample), default=1)
    rules = [PathRule(drop, folder) for drop in range(max(longest, 1)) for folder in ("", *folders)]
    return max(rules, key=lambda rule: _num_found(rule, sample, root))


def _num_found(rule: PathRule, sample: Sequence[str], root: Path) -> int:
    found = [rule(path) for path in sample if rule.fits(path)]
    return sum(not os.path.isabs(path) and os.path.isfile(root / path) for path in found)


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
