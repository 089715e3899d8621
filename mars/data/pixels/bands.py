"""Split an image into bands of rows, so that work on it needs extra memory only for one band."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_PIXELS = 2**18


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(index of the first row, copy of the rows as an image) of each band, from top to bottom."""
    rows = max(1, _PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
