"""A public set before it is written: its items, and the function that turns an item into a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Item:
    """One item of a set, which becomes one row. label: its name in messages. content: passed to `PublicSet.read`."""

    label: str
    content: Any

    def __post_init__(self) -> None:
        """Escape unprintable characters of the label, because messages and metadata need one line of Unicode text."""
        if not self.label.isprintable():
            shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in self.label)
            object.__setattr__(self, "label", "".join(shown))


@dataclass(frozen=True)
class ReadItem:
    """columns: the row's columns (docs/data.md), with image paths relative to the image root.

    counts: name -> a count for this item, such as its number of boxes. The metadata has the sums over the split.
    files: the files that were written for this item; they are removed if the item turns out to be bad.
    """

    columns: Mapping[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class PublicSet:
    """A set as found on disk.

    name: data_source of its rows. converter: name and version of the converter, for the metadata.
    image_root: folder that the rows' image paths are relative to.
    splits: name -> items in order; each becomes {name}.parquet.
    with_mono_responses: whether an item may have example responses to single images.
    with_origin: whether items say in extra_info.origin (JSON text) how they were made, and may have more fields of
        extra_info in extra_info.more_fields (JSON text).
    keep_repeated: keep duplicate rows, because a benchmark is used unchanged.
    left_out: kind -> number of entries that did not become items (such as annotations without an image), for the
        metadata.
    read: returns an item's row; raises RowError if the item cannot be used. Called from several threads.
    """

    name: str
    converter: str
    licence: str
    image_root: Path
    splits: Mapping[str, Sequence[Item]]
    read: Callable[[Item], ReadItem]
    keep_repeated: bool = False
    with_mono_responses: bool = False
    with_origin: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
