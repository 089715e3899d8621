"""Where an image is stored (a file, or a cell of a file of rows), and how its encoded bytes are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from mars.data.pixels.cells import read_cell
from mars.errors import DataError
from mars.output.files import special_kind
from mars.types import ImageRef

MAX_FILE_BYTES = 2**28

BadImageReason = Literal["missing", "empty", "undecodable", "bit_depth", "size", "changed"]


class BadImage(DataError):
    """An image that cannot be used. Counts and metrics group such images by `reason`."""

    def __init__(self, reason: BadImageReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        """Pickle with the reason, so that the driver gets a worker's BadImage as it was raised."""
        return BadImage, (self.reason, str(self))


class Place(NamedTuple):
    """A file, or a cell of a parquet or arrow file: its `row`, and the `slot` in the row's list of images."""

    path: str
    row: int | None = None
    slot: int | None = None

    @classmethod
    def of(cls, ref: ImageRef) -> Place:
        return cls(ref.path, ref.row, ref.slot)

    @property
    def name(self) -> str:
        """What error messages call the image: its path, or "file.parquet:row, image slot" for a cell."""
        return self.path if self.row is None else f"{self.path}:{self.row}, image {self.slot}"


ReadImage = Callable[[Place], str | bytes]
"""(place of an image) -> the path of its file, or its encoded bytes. Raises BadImage."""


def stored_image(place: Place) -> str | bytes:
    """A `ReadImage`: for an image file its path, without opening the file; for a cell its encoded bytes."""
    if place.row is None or place.slot is None:
        return place.path
    check_file(place.path, place.name, is_image=False)
    try:
        return read_cell(place.path, place.row, place.slot)
    except (OSError, ValueError, LookupError) as error:
        raise BadImage("missing", f"{place.name}: no such image ({error})") from error


def encoded_image(place: Place) -> bytes:
    """The encoded bytes of an image. Raises BadImage."""
    stored = stored_image(place)
    if isinstance(stored, bytes):
        return stored
    check_file(stored, place.name)
    try:
        return Path(stored).read_bytes()
    except OSError as error:
        raise BadImage("missing", f"{place.name}: the image cannot be read ({error.strerror})") from error


def check_file(path: str, name: str, *, is_image: bool = True) -> None:
    """Check a path before it is opened, because opening a named pipe blocks until it has a writer.

    is_image: whether the file is an image; if not, it is a file of rows. Raises BadImage.
    """
    try:
        info = os.stat(path)
    except OSError as error:
        raise BadImage("missing", f"{name}: no such image ({error.strerror})") from error
    special = special_kind(info.st_mode)
    if special is not None:
        raise BadImage("missing", f"{name}: not a file; it is {special}; give the image file itself")
    if info.st_size == 0:
        raise BadImage("empty", f"{name}: the image has 0 bytes")
    if is_image and info.st_size > MAX_FILE_BYTES:
        raise BadImage("size", f"{name}: unusable size; got {info.st_size} bytes; at most {MAX_FILE_BYTES} are read")
