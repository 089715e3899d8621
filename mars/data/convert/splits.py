"""Decide the split of each record of a public set, and whether the record belongs to the set."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from mars.data.convert.records import RecordFile

logger = logging.getLogger(__name__)

_HELD_OUT = ("test", "val", "valid", "validation", "eval", "evaluation", "dev", "bench", "benchmark", "core")


def split_names(files: Sequence[RecordFile], keep_names: Collection[str]) -> dict[str, str]:
    """File name -> split, as DEMON's metadata or the file's name says.

    If neither says it, a file whose first record has a field "question" (a benchmark) is "test" and any other file is
    "train". The split of files in `keep_names`, and of files that would share a split, is called like the file.
    """
    names = {file.name: file.name if file.name in keep_names else _train_or_test(file) for file in files}
    several = {name for name, count in Counter(names.values()).items() if count > 1}
    return {file: file if name in several else name for file, name in names.items()}


def split_of(record: Any, file: RecordFile, name: str) -> str:
    """The split of a record. name: the split of its file.

    The split is `name`, unless the record's own metadata (M4-Instruct) says "train" for a file that counts as "test",
    or the reverse. Then it is the metadata's split if `name` is "train" or "test", else `<name>_<metadata's split>`.
    """
    declared = _declared(_metadata(record).get("split"))
    if declared is None or declared == _train_or_test(file):
        return name
    return declared if name in ("train", "test") else f"{name}_{declared}"


def belongs(file: RecordFile, name: str) -> Callable[[Any], bool]:
    """A function that says whether a record belongs to the set `name`. A file of M4-Instruct has records of many sets.

    A record that names its set belongs if this name contains `name`; only letters and digits are compared
    ("OCR-VQA" is ocr_vqa). A record that names no set belongs. If no record of the file names this set, all belong.
    """
    own = _plain(name)
    named = {_plain(_metadata(record).get("dataset", "")) for record in file.records} - {""}
    if not any(own in other for other in named):
        if named:
            says = ", ".join(sorted(named))
            logger.warning("%s: no record belongs to %s; the records name %s; all are used", file.path, name, says)
        return lambda record: True
    return lambda record: not (other := _plain(_metadata(record).get("dataset", ""))) or own in other


def _train_or_test(file: RecordFile) -> str:
    words = re.split(r"[^a-z]+", file.name.lower())
    declared = _declared(file.metadata.get("split"))
    if declared is not None:
        return declared
    if any(word in _HELD_OUT for word in words):
        return "test"
    first = file.records[0]
    is_benchmark = isinstance(first, dict) and "question" in first
    return "test" if is_benchmark and "train" not in words else "train"


def _declared(split: Any) -> str | None:
    word = str(split).lower()
    return "test" if word in _HELD_OUT else "train" if word in ("train", "training") else None


def _metadata(record: Any) -> dict[str, Any]:
    metadata = record.get("metadata") if isinstance(record, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
