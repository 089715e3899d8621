"""The questions of `mars eval infer`, before a configuration exists: which file is read, and which task it is."""

from __future__ import annotations

import json

from mars.data.files import FileError, chunks, unusable_files
from mars.data.problems import RowError
from mars.data.rows import truth_of
from mars.errors import DataError


def task_of(file: str) -> str:
    """The reward that the first row's truth is for: grounding for a JSON list, else vqa. Raises DataError.

    For questions whose task is not given; rows of the other kind are then refused with the rest of the bad ones.
    """
    broken = unusable_files([file], None)
    if broken:
        raise DataError("\n".join(broken))
    try:
        first = next(row for chunk in chunks(file, 0) for row in chunk)
        truth = json.loads(truth_of(first.columns or {}))
    except (FileError, RowError, StopIteration, ValueError, RecursionError):
        return "vqa"  # what is wrong with the file is said when all of it is read
    return "grounding" if isinstance(truth, list) else "vqa"
