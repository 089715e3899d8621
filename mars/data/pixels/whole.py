"""Load all pixels of an image file, and refuse a file that holds too few of them. Time is linear in the file's size.

Pillow accepts such files. docs/bad_rows.md, section "Damaged images", says which damage is found in each format.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from mars.data.pixels.jpeg import load_jpeg
from mars.data.pixels.png import load_png

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

_COMPRESSION, _BITS, _SIZES_OF_PARTS, _OFFSETS_OF_PARTS, _TABLES = 259, 258, (279, 325), (273, 324), 347
_RAW, _JPEG, _DEFLATE = 1, 7, (8, 32946)
_BLOCK = 2**18
_MAX_PART_BYTES = 2**28  # of a strip or tile, unpacked; an image has at most 2**25 pixels

# The probability that each of so many "\n" follows a "\r" in random bytes is 2**-128.
_FEW_LINES = 16


def load_whole(image: ImageFile) -> Image.Image:
    """The opened image, or a copy of it, with its pixels loaded.

    For a file that is damaged or lacks pixels, raises the decoder's exception, such as ValueError or OSError.
    """
    if image.format != "PNG":  # a PNG file that was copied as text has a wrong signature
        _check_line_ends(_content(image))
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


def _check_line_ends(data: bytes) -> None:
    r"""Raises ValueError for a file that was copied as text, with "\r\n" for each "\n": its pixels are shifted.

    Decoders notice this only by chance.
    """
    lines = data.count(b"\n")
    if lines >= _FEW_LINES and lines == data.count(b"\r\n"):
        raise ValueError("the file was copied as text: each of its line ends has become two bytes")


def _check_tiff(image: ImageFile) -> None:
    """Raises if strips or tiles of the first image lack pixels, which Pillow would fill in.

    Checks strips and tiles that are uncompressed, JPEG or Deflate. Deflate is among them because Pillow's decoder stops
    at the last pixel and does not compare the checksum after it. The decoders of the other compressions raise by
    themselves.
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
    elif tags[_COMPRESSION] in _DEFLATE:
        for offset, size in zip(offsets, sizes, strict=True):
            image.fp.seek(offset)
            _check_deflated(image.fp.read(size))


def _check_deflated(part: bytes) -> None:
    """Raises ValueError or zlib.error unless the stream is whole, with the right checksum at its end.

    Also raises ValueError if it unpacks to more than _MAX_PART_BYTES.
    """
    unpack, number = zlib.decompressobj(), 0
    while not unpack.eof:
        block = unpack.decompress(part, _BLOCK)
        part, number = unpack.unconsumed_tail, number + len(block)
        if not block and not unpack.eof:
            raise ValueError("a part of the TIFF file is cut off")
        if number > _MAX_PART_BYTES:
            raise ValueError(f"a part of the TIFF file unpacks to more than {_MAX_PART_BYTES} bytes")
