"""Data sets that the library `datasets` reads: folders of `save_to_disk`, and names of the Hugging Face hub.

Their rows are in arrow files, which mars/data/rows/files.py reads.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath

from mars.output.files import special_kind

ROW_FILES = (".parquet", ".jsonl", ".json")

_WRITTEN_BY_SAVE_TO_DISK = ("state.json", "dataset_dict.json")
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_NAME = re.compile(rf"({_WORD}/)?{_WORD}(:{_WORD})?@{_WORD}")


class FileError(Exception):
    """The file itself, not one of its rows, cannot be read."""


@dataclass(frozen=True)
class SavedSet:
    """A data set's name, split into its parts.

    path: folder, or name on the hub ("owner/name"). config: configuration on the hub; None if the name has none.
    split: None for a folder that holds a single data set.

    >>> saved_set("owner/name:small@train")
    SavedSet(path='owner/name', config='small', split='train')
    """

    path: str
    config: str | None
    split: str | None

    @property
    def is_folder(self) -> bool:
        return os.path.isdir(self.path)


def saved_set(name: str) -> SavedSet | None:
    """The folder of `save_to_disk` or the set on the hub that `name` stands for; None for a file or any other name.

    Forms of a name: "folder", "folder@split", "owner/name@split", "owner/name:config@split". Sets on the hub that have
    no owner are named without "owner/".
    """
    if os.path.isdir(name):
        return SavedSet(name, None, None)
    path, separator, split = name.rpartition("@")
    if not separator or os.path.isfile(name):
        return None
    if os.path.isdir(path):
        return SavedSet(path, None, split)
    if PurePath(name).suffix in ROW_FILES or not _HUB_NAME.fullmatch(name):
        return None
    path, _, config = path.partition(":")
    return SavedSet(path, config or None, split)


def arrow_files(saved: SavedSet) -> list[str]:
    """The arrow files that hold the set's rows, in order. Raises FileError.

    A data set of the hub is downloaded into the cache of `datasets`, if it is not there yet.
    """
    return _folder_files(saved) if saved.is_folder else list(_hub_files(saved))


def _folder_files(saved: SavedSet) -> list[str]:
    if not any(os.path.isfile(os.path.join(saved.path, name)) for name in _WRITTEN_BY_SAVE_TO_DISK):
        raise FileError("is a folder; name its .parquet or .jsonl files, or a folder that save_to_disk wrote")
    from datasets import Dataset, load_from_disk

    for folder, _, names in os.walk(saved.path):
        for name in names:
            path = os.path.join(folder, name)
            kind = special_kind(os.stat(path).st_mode) if os.path.exists(path) else None
            if kind is not None:  # opening a named pipe would wait for its writer
                raise FileError(f"holds {kind}, {name}; remove it")
    try:
        found = load_from_disk(saved.path, keep_in_memory=False)
    except (OSError, ValueError, LookupError) as error:
        raise FileError(f"cannot be read as a saved data set: {error}; save it again with save_to_disk") from error
    if isinstance(found, Dataset):
        if saved.split is not None:
            raise FileError(f"is one split itself; got @{saved.split}; name the folder alone")
        return _files_of(found)
    if saved.split not in found:
        named = ", ".join(f"{saved.path}@{split}" for split in found)
        raise FileError(f"no such split; got {saved.split or 'none'}; use one of {named}")
    return _files_of(found[saved.split])


@lru_cache(maxsize=64)  # a process asks the hub once, and sees one revision
def _hub_files(saved: SavedSet) -> tuple[str, ...]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        found = load_dataset(saved.path, saved.config, split=saved.split, keep_in_memory=False)
    except ConnectionError as error:
        raise FileError(
            f"no such file or folder, and the hub cannot be reached: {error}; download the set where there is a "
            "network (the cache is HF_HOME), or name files of rows"
        ) from error
    except (OSError, ValueError, LookupError, DatasetsError) as error:
        raise FileError(
            f"cannot be loaded from the hub: {error}; give owner/name@split or owner/name:config@split"
        ) from error
    return tuple(_files_of(found))


def _files_of(found) -> list[str]:
    """The arrow files of a data set. Raises FileError if they have more or fewer rows than it."""
    from datasets import Dataset

    files = [os.path.realpath(entry["filename"]) for entry in found.cache_files]
    if sum(Dataset.from_file(file).num_rows for file in files) != found.num_rows:
        raise FileError("its arrow files have other rows than the data set; use save_to_disk on it again")
    return files
