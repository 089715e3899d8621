"""Split an image into bands of rows, so that work on it needs extra memory for one band, not for the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_PIXELS = 2**18


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield every band from top to bottom: the index of its first row, and an image that is a copy of its rows."""
    rows = max(1, _PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
