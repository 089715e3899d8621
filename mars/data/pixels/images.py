"""The only image decoder, so that engine and trainer see the same pixels.

Applies EXIF rotation, puts transparent pixels on white, takes the first frame, and returns 8-bit RGB. Refuses a file
that lacks pixels, and an image of more than 8 bits without a declared encoding.

Memory: the bytes of the file, and up to 8 bytes for each pixel (11 for a progressive JPEG): 270 MB (370 MB) for
MAX_PIXELS. Each thread that decodes needs as much.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from mars.data.pixels.bands import bands
from mars.data.pixels.depth import DEPTH_ENCODINGS, depth_to_rgb
from mars.data.pixels.stored import BadImage, Place, ReadImage, check_file, stored_image
from mars.data.pixels.whole import load_whole
from mars.errors import DataError
from mars.image_transform import TransformedImage
from mars.types import ImageRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image
    from PIL.ImageFile import ImageFile

DecodeImage = Callable[[ImageRef], "Image.Image"]
"""Decodes an image as `decode_image` does, wherever it is read from."""

ENCODINGS = ("rgb", *DEPTH_ENCODINGS)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # no format for which Pillow starts another program
MAX_PIXELS = 2**25
MIN_SIDE = 4  # image processors take a side of 1 or 3 pixels for the colour channels
MAX_ASPECT = 200  # limit of Qwen-VL's smart_resize
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB")
SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
TAILS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "GIF": b";"}
TIFF_BITS_PER_SAMPLE, TIFF_COMPRESSION, TIFF_SAMPLE_FORMAT, TIFF_SUBSAMPLING = 258, 259, 339, 530


def decode_image(ref: ImageRef, read: ReadImage = stored_image) -> Image.Image:
    """Decode to 8-bit RGB of size `decoded_size(ref)`. Raises BadImage (a DataError) with the file's name.

    read: a node that does not have the images at the driver's paths passes another function than `stored_image`.
    Raises TypeError for a transformed image: only a run's `TransformingDecoder` applies transforms.
    """
    if isinstance(ref, TransformedImage):
        raise TypeError(f"{ref.path}: decode_image applies no transforms; decode it with a TransformingDecoder")
    place = Place.of(ref)
    name = place.name
    with _opened(read(place), ref.encoding, name) as image:
        decoded = _decoded(image, ref.encoding)
    if decoded.size != tuple(ref.size):
        raise BadImage("changed", f"{name}: the image changed after loading; got {decoded.size}, was {ref.size}")
    return decoded if ref.resized is None else _resize(decoded, ref.resized)


def decoded_size(ref: ImageRef) -> tuple[int, int]:
    """(width, height) of what decode_image returns."""
    return ref.size if ref.resized is None else ref.resized


def size_problem(size: tuple[int, int]) -> str | None:
    """Why an image of this (width, height) is refused, as the condition that it breaks; None if it is accepted."""
    short, long = min(size), max(size)
    if short >= MIN_SIDE and long <= MAX_ASPECT * short and short * long <= MAX_PIXELS:
        return None
    return f"sides must be at least {MIN_SIDE}, within {MAX_ASPECT}:1 and {MAX_PIXELS} pixels"


def probe_size(source: str | bytes, encoding: str, name: str) -> tuple[int, int]:
    """(width, height) after EXIF rotation, from the header of a file (path) or of encoded bytes.

    What decode_image would refuse because of the header is refused here too. A file is decoded in full if
    reading its header and its end is not enough (`_header_is_enough`).
    name: what messages call the image. Raises BadImage.
    """
    with _opened(source, encoding, name) as image:
        if not _header_is_enough(image):
            return _decoded(image, encoding).size
        width, height = image.size
        return (height, width) if _orientation(image) in SWAPPING_ORIENTATIONS else (width, height)


@contextmanager
def _opened(source: str | bytes, encoding: str, name: str) -> Iterator[ImageFile]:
    """The opened and checked image. Any failure of a decoder inside the block becomes a BadImage."""
    from PIL import Image, ImageFile

    if encoding not in ENCODINGS:
        raise DataError(f"{name}: unknown image encoding; got {encoding!r}; use one of {', '.join(ENCODINGS)}")
    if isinstance(source, str):
        check_file(source, name)
    elif not source:
        raise BadImage("empty", f"{name}: the image has 0 bytes")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a user's file may have set it for this whole process
    Image.init()  # registers WEBP and TIFF, which Pillow loads late
    try:
        with Image.open(source if isinstance(source, str) else io.BytesIO(source), formats=FORMATS) as image:
            _check_header(image, encoding, name)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("size", f"{name}: unusable size: {error}") from error
    except Image.UnidentifiedImageError as error:  # Pillow's text would show a path, or an object's address
        raise BadImage("undecodable", f"{name}: cannot be decoded: it is no image of a known format") from error
    except Exception as error:  # decoders raise anything on damaged files
        reason = str(error) or type(error).__name__
        raise BadImage("undecodable", f"{name}: cannot be decoded: {reason}") from error


def _check_header(image: Image.Image, encoding: str, name: str) -> None:
    width, height = image.size
    limits = size_problem((width, height))
    if limits is not None:
        raise BadImage("size", f"{name}: unusable size; got {width}x{height}; {limits}")
    depth = image.mode in DEEP_MODES
    if encoding == "rgb" and (depth or _stored_bits(image) > 8):
        raise BadImage(
            "bit_depth",
            f"{name}: more than 8 bits per channel (mode {image.mode}); declare how it becomes RGB in "
            f"extra_info.encodings: {', '.join(DEPTH_ENCODINGS)}",
        )
    unknown = _unknown_pixels(image)
    if unknown is not None:
        raise BadImage("undecodable", f"{name}: cannot be decoded: {unknown} are not read; save the image as RGB")
    if encoding != "rgb" and not depth:
        raise BadImage("bit_depth", f"{name}: {encoding} needs one channel of 16 or 32 bits; got mode {image.mode}")


def _unknown_pixels(image: Image.Image) -> str | None:
    """The image's kind of pixels if Pillow would read it wrongly or cannot convert it to RGB, else None."""
    if image.mode not in (*COLOUR_MODES, *DEEP_MODES):
        return f"pixels of mode {image.mode}"
    if image.format != "TIFF":
        return None
    tags = image.tag_v2
    if image.mode not in DEEP_MODES and tags.get(TIFF_SAMPLE_FORMAT, (1,))[0] != 1:
        return "signed pixels of 8 bits"
    is_raw = tags.get(TIFF_COMPRESSION, 1) == 1
    if image.mode == "YCbCr" and is_raw and tuple(tags.get(TIFF_SUBSAMPLING, (2, 2))) != (1, 1):
        return "uncompressed pixels with subsampled colour"
    return None


def _stored_bits(image: Image.Image) -> int:
    """Bits per channel in the file, for formats that Pillow would silently reduce to 8 bits."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (8,)))
    for tile in image.tile:
        parts = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(part, str) and ";16" in part for part in parts):
            return 16
        if image.format == "PPM" and any(isinstance(part, int) and part > 255 for part in parts):  # the largest value
            return 16
    return 8


def _header_is_enough(image: Image.Image) -> bool:
    """Whether width, height and completeness of the file can be told without decoding its pixels.

    The file must end as its format requires. For a format that requires no end, such as TIFF, the answer is False. A
    PNG file must also have no chunk behind its pixels that can hold EXIF data: a rotation there would swap width and
    height.
    """
    fp, here = image.fp, image.fp.tell()
    size = fp.seek(0, os.SEEK_END)
    try:
        if image.format == "PNG":
            return _png_is_regular(fp, size)
        if image.format == "WEBP":
            return int.from_bytes(_read_at(fp, 4, 4), "little") + 8 == size
        tail = TAILS.get(image.format or "")
        return tail is not None and _read_at(fp, size - len(tail), len(tail)) == tail
    finally:
        fp.seek(here)


def _png_is_regular(fp: IO[bytes], size: int) -> bool:
    """Whether all chunks are there, and no chunk after the pixels can hold EXIF data (see _header_is_enough)."""
    position, pixels_seen = 8, False
    while position + 12 <= size:
        head = _read_at(fp, position, 8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        position += 12 + length
        if kind == b"IEND":
            return position <= size
        pixels_seen = pixels_seen or kind == b"IDAT"
        if pixels_seen and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return False
    return False


def _read_at(fp: IO[bytes], position: int, length: int) -> bytes:
    fp.seek(max(position, 0))
    return fp.read(length)


def _orientation(image: Image.Image) -> int:
    from PIL import ExifTags, Image

    # PNG's own getexif decodes all pixels to find EXIF data after them; _header_is_enough has ruled out such data.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)


def _decoded(image: ImageFile, encoding: str) -> Image.Image:
    """The opened image as upright RGB."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    whole = load_whole(image)
    rgb = _to_rgb(whole) if encoding == "rgb" else depth_to_rgb(whole, encoding)
    turned = turn.get(whole.getexif().get(Base.Orientation, 1))
    return rgb if turned is None else rgb.transpose(turned)


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, with alpha on white."""
    from PIL import Image

    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    for top, band in bands(image):
        coloured = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        rgb.paste(Image.alpha_composite(white, coloured).convert("RGB"), (0, top))
    return rgb


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize with torchvision's bicubic on 8 bits: bit-identical to Qwen-VL's image processor, unlike Pillow's."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    pixels = functional.pil_to_tensor(image)
    resized = functional.resize(pixels, [size[1], size[0]], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return functional.to_pil_image(resized)
