"""Writes tests/bad/images: small files no decoder should accept, and expected.json with a fragment of each message.

python tests/bad/make_images.py
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "images"


def png(width: int, height: int, bit_depth: int, colour_type: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut_jpeg(data: bytes, share: float) -> bytes:
    """The file with this share of the data behind its first scan header, and an end marker."""
    start = data.find(b"\xff\xda") + 14
    return data[: start + int((len(data) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"


def without_interval(data: bytes) -> bytes:
    """A JPEG file with restart markers without what stands between the second and the third."""
    return data[: data.find(b"\xff\xd1")] + data[data.find(b"\xff\xd2") :]


def patched_tiff(data: bytes, tag: int, kind: int, value: int) -> bytes:
    """A little-endian TIFF file with another value of a tag that stores one number."""
    place = data.find(struct.pack("<HHI", tag, kind, 1))
    return data[: place + 8] + struct.pack("<I", value) + data[place + 12 :]


def corpus() -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, fragment of the message)."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    good_png, good_jpg = encoded(noise, "PNG"), encoded(noise, "JPEG")
    flipped = bytearray(good_png)
    flipped[len(flipped) // 2] ^= 0xFF
    depth = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    row16 = bytes(1 + 8 * 6)
    photo = noise.resize((24, 24))
    jpeg, progressive = encoded(photo, "JPEG"), encoded(photo, "JPEG", progressive=True)
    restarts = encoded(photo, "JPEG", restart_marker_blocks=1, subsampling=0)
    rows = bytes(1 + 16 * 3)
    return {
        "empty.png": (b"", "0 bytes"),
        "truncated.jpg": (good_jpg[: len(good_jpg) * 2 // 3], "cannot be decoded"),
        "truncated.png": (good_png[: len(good_png) // 2], "cannot be decoded"),
        "one_byte_short.jpg": (good_jpg[:-1], "cannot be decoded"),
        "bit_flip.png": (bytes(flipped), "cannot be decoded"),
        "text.jpg": (b"this is no image\n" * 3, "cannot be decoded"),
        "error_page.png": (b"<html><body>404 Not Found</body></html>", "cannot be decoded"),
        "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "cannot be decoded"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(x) show\n", "cannot be decoded"),
        "signature_only.png": (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
        "cut_after_header.jpg": (cut_jpeg(jpeg, 0), "cannot be decoded"),
        "cut_in_the_middle.jpg": (cut_jpeg(jpeg, 0.5), "cannot be decoded"),
        "cut_near_the_end.jpg": (cut_jpeg(jpeg, 0.95), "cannot be decoded"),
        "cut_grey.jpg": (cut_jpeg(encoded(photo.convert("L"), "JPEG"), 0.5), "cannot be decoded"),
        "cut_first_scan.jpg": (cut_jpeg(progressive, 0.1), "before its last scan"),
        "cut_last_scan.jpg": (cut_jpeg(progressive, 0.97), "before its last block"),
        "lost_interval.jpg": (without_interval(restarts), "between restart markers"),
        "no_pixels.png": (png(16, 16, 8, 2, b""), "too few pixels: 0 bytes of 784"),
        "half_the_pixels.png": (png(16, 16, 8, 2, rows * 8), "too few pixels: 392 bytes of 784"),
        "one_byte_of_pixels_short.png": (png(16, 16, 8, 2, (rows * 16)[:-1]), "too few pixels: 783 bytes of 784"),
        "short_strip.tiff": (patched_tiff(encoded(noise, "TIFF"), 279, 4, 300), "too few pixels: 300 bytes of 768"),
        "signed.tiff": (
            encoded(noise.convert("L"), "TIFF", tiffinfo={339: 2}),
            "signed pixels of 8 bits",
        ),
        "bomb.png": (png(60000, 60000, 8, 2, bytes(64)), "decompression bomb"),
        "bomb_beyond_pillow.png": (png(9000, 9000, 8, 2, bytes(64)), "9000x9000"),
        "strip.png": (encoded(Image.new("1", (1, 70000)), "PNG"), "1x70000"),
        "line.png": (encoded(Image.new("RGB", (1, 30)), "PNG"), "1x30"),
        "ribbon.png": (encoded(Image.new("1", (4, 1000)), "PNG"), "4x1000"),
        "grey16.png": (encoded(Image.fromarray(depth), "PNG"), "more than 8 bits"),
        "rgb16.png": (png(8, 8, 16, 2, row16 * 8), "more than 8 bits"),
        "grey16.tiff": (encoded(Image.fromarray(depth), "TIFF"), "more than 8 bits"),
        "grey32.tiff": (encoded(Image.fromarray(depth.astype(np.int32)), "TIFF"), "more than 8 bits"),
        "float32.tiff": (encoded(Image.fromarray(depth.astype(np.float32)), "TIFF"), "more than 8 bits"),
        "grey16.pgm": (b"P5 8 8 65535\n" + bytes(128), "more than 8 bits"),
        "rgb16.ppm": (b"P6 8 8 65535\n" + bytes(384), "more than 8 bits"),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    items = corpus()
    for name, (data, _) in items.items():
        (FOLDER / name).write_bytes(data)
    fragments = {name: fragment for name, (_, fragment) in items.items()}
    (FOLDER / "expected.json").write_text(json.dumps(fragments, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
