"""Load all pixels of an image file, and refuse a file that holds too few of them. Time is linear in the file's size.

Pillow accepts such files: pixels that are missing are grey in a JPEG and black in a PNG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mars.data.pixels.jpeg import load_jpeg
from mars.data.pixels.png import load_png

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

_COMPRESSION, _BITS, _SIZES_OF_PARTS, _OFFSETS_OF_PARTS, _TABLES = 259, 258, (279, 325), (273, 324), 347
_RAW, _JPEG = 1, 7


def load_whole(image: ImageFile) -> Image.Image:
    """The opened image, or a copy of it, with its pixels loaded.

    Raises what a decoder raises, ValueError and OSError among others, for a file that is damaged or lacks pixels.
    """
    if image.format in ("JPEG", "MPO"):
        return load_jpeg(_content(image))
    if image.format == "PNG":
        return load_png(_content(image))
    if image.format == "TIFF":
        _check_tiff(image)
    image.load()
    return image


def _content(image: ImageFile) -> bytes:
    image.fp.seek(0)
    return image.fp.read()


def _check_tiff(image: ImageFile) -> None:
    """Raises if strips or tiles of the first image lack pixels, which Pillow would fill in.

    Only uncompressed and JPEG strips and tiles are checked, because the decoders of the other compressions raise.
    """
    tags = image.tag_v2
    sizes, offsets = (
        next((tuple(tags[key]) for key in keys if key in tags), ()) for keys in (_SIZES_OF_PARTS, _OFFSETS_OF_PARTS)
    )
    if tags.get(_COMPRESSION, _RAW) == _RAW:
        needed = -(-image.width * sum(tags.get(_BITS, (1,))) // 8) * image.height
        if sizes and sum(sizes) < needed:
            raise ValueError(f"the TIFF file has too few pixels: {sum(sizes)} bytes of {needed}")
    elif tags[_COMPRESSION] == _JPEG:
        tables = bytes(tags.get(_TABLES, b"\xff\xd8"))
        for offset, size in zip(offsets, sizes, strict=True):
            image.fp.seek(offset)
            load_jpeg(tables.removesuffix(b"\xff\xd9") + image.fp.read(size)[2:])
