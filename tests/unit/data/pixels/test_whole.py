"""Files that lack pixels are refused, and whole ones decode as Pillow decodes them, in every form of JPEG and PNG."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from mars.data.pixels.images import _decoded, _opened
from mars.data.pixels.jpeg import load_jpeg
from mars.data.pixels.png import load_png
from mars.data.pixels.stored import BadImage
from mars.data.pixels.whole import load_whole


def noise(width, height, mode="RGB", seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)).convert(mode)


def stored(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def probe(data):
    """Decode as a run does."""
    with _opened(data, "rgb", "x") as image:
        return _decoded(image, "rgb")


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    return image


def jpegs():
    """(what, file) for every kind of JPEG that Pillow writes, of noise, grey and gradients."""
    images = {"noise": noise(33, 70), "flat": Image.new("RGB", (161, 90), (128, 128, 128)), "small": noise(5, 4)}
    for name, image in images.items():
        for mode, is_progressive, subsampling, restart, quality in itertools.product(
            ("RGB", "L", "CMYK"), (False, True), (0, 1, 2), (0, 1, 3), (30, 95)
        ):
            options = {} if mode == "L" else {"subsampling": subsampling}
            data = stored(
                image.convert(mode), "JPEG",
                quality=quality, progressive=is_progressive, restart_marker_blocks=restart, **options,
            )  # fmt: skip
            yield (name, mode, is_progressive, subsampling, restart, quality), data


def test_whole_jpegs_decode_as_before_and_cut_ones_are_refused():
    for what, data in jpegs():
        assert load_jpeg(data).tobytes() == by_pillow(data).tobytes(), what
        start = data.find(b"\xff\xda") + 14
        for share in (0, 0.4, 0.8) if what[0] == "noise" else ():
            cut = data[: start + int((len(data) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"
            with pytest.raises((OSError, ValueError)):
                pytest.fail(f"{what} cut at {share}: {load_jpeg(cut)}")


def test_a_jpeg_with_more_behind_its_end_is_whole():
    first = stored(noise(40, 24), "JPEG")
    assert load_jpeg(first + b"a camera's notes").tobytes() == by_pillow(first).tobytes()
    both = stored(noise(40, 24), "MPO", save_all=True, append_images=[noise(40, 24, seed=1)])
    assert by_pillow(both).format == "MPO"
    assert load_jpeg(both).tobytes() == by_pillow(first).tobytes()


def with_pixels(data, pixels):
    """A PNG file with other unpacked pixels, in chunks of 50 bytes."""
    start = data.index(b"IDAT") - 4
    packed = zlib.compress(pixels)
    chunks = b""
    for i in range(0, len(packed), 50):
        body = b"IDAT" + packed[i : i + 50]
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:start] + chunks + data[-12:]


def unpacked(data):
    start = data.index(b"IDAT")
    return zlib.decompress(data[start + 4 : start + 4 + struct.unpack(">I", data[start - 4 : start])[0]])


@pytest.mark.parametrize("repack", [True, False])
def test_pngs_with_all_their_pixels_and_without(monkeypatch, repack):
    if not repack:
        monkeypatch.setattr("mars.data.pixels.png._REPACKED_PIXELS", 0)
    for mode, (width, height) in itertools.product(("1", "L", "LA", "P", "RGB", "RGBA"), ((4, 4), (7, 9), (33, 20))):
        data = stored(noise(width, height, mode), "PNG")
        pixels = unpacked(data)
        for whole in (data, with_pixels(data, pixels), with_pixels(data, pixels + b"more")):
            assert load_png(whole).tobytes() == by_pillow(data).tobytes(), (mode, width, height)
        for missing in (1, len(pixels) // 2, len(pixels)):
            with pytest.raises(ValueError, match=f"{len(pixels) - missing} bytes of {len(pixels)}"):
                load_png(with_pixels(data, pixels[: len(pixels) - missing]))


def test_the_number_of_pixels_of_an_interlaced_png():
    # 9 x 5, grey, by hand; passes of 2x1, 1x1, 3x1, 2x2, 5x1, 4x3, 9x2 pixels, a filter byte for each row:
    # 3 + 2 + 4 + 6 + 6 + 15 + 20 bytes.
    header = struct.pack(">IIBBBBB", 9, 5, 8, 0, 0, 0, 1)
    body = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    data += struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    assert load_png(with_pixels(data, bytes(56))).size == (9, 5)
    with pytest.raises(ValueError, match="55 bytes of 56"):
        load_png(with_pixels(data, bytes(55)))


def test_tiffs_that_lack_pixels():
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        options = {} if compression is None else {"compression": compression}
        data = stored(noise(60, 40), "TIFF", **options)
        with Image.open(io.BytesIO(data)) as image:
            assert load_whole(image).tobytes() == by_pillow(data).tobytes(), compression
            (size,) = image.tag_v2[279]
        place = next(at for kind in (4, 3) if (at := data.find(struct.pack("<HHI", 279, kind, 1))) > 0)
        width = "<I" if data[place + 2] == 4 else "<H"
        short = data[: place + 8] + struct.pack(width, size // 2) + data[place + 8 + struct.calcsize(width) :]
        with pytest.raises((OSError, ValueError)), Image.open(io.BytesIO(short)) as image:
            load_whole(image)


@pytest.mark.parametrize("tag", [8, 32946])
def test_the_checksum_of_a_deflated_tiff_counts(tag):
    """Damage by which the stream still gives enough pixels: libtiff stops there."""
    name = "tiff_adobe_deflate" if tag == 8 else "tiff_deflate"
    data = stored(noise(128, 96), "TIFF", compression=name)
    places = range(len(data) // 4, len(data) - 600, 997)
    assert len(places) > 20
    for at in places:
        with pytest.raises(BadImage, match=r"^x: cannot be decoded: "):
            probe(data[:at] + bytes(512) + data[at + 512 :])
    assert probe(data).tobytes() == by_pillow(data).tobytes()


def test_several_deflated_strips_are_all_read(monkeypatch):
    monkeypatch.setattr("PIL.TiffImagePlugin.STRIP_SIZE", 3 * 60 * 8)
    data = stored(noise(60, 40), "TIFF", compression="tiff_adobe_deflate")
    with Image.open(io.BytesIO(data)) as image:
        assert len(image.tag_v2[273]) == 5
        assert load_whole(image).tobytes() == by_pillow(data).tobytes()
        last = image.tag_v2[273][-1] + image.tag_v2[279][-1]
    bad = data[: last - 1] + bytes([data[last - 1] ^ 1]) + data[last:]  # the last byte of the last checksum
    with Image.open(io.BytesIO(bad)) as image, pytest.raises(zlib.error, match="incorrect data check"):
        load_whole(image)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "PPM", "PNG", "GIF", "WEBP", "TIFF"])
def test_files_that_were_copied_as_text_are_refused(kind):
    """As by a version control or a transfer that takes them for text."""
    data = stored(noise(90, 120), kind)
    assert b"\n" in data.replace(b"\r\n", b"")
    with pytest.raises(BadImage, match=r"^x: cannot be decoded: "):
        probe(data.replace(b"\n", b"\r\n"))
    probe(data)


def test_few_line_ends_are_no_sign_of_a_copy_as_text():
    for number in (0, 1, 15):
        data = stored(Image.new("RGB", (40, 30), (200, 100, 50)), "BMP")
        image = data[:200] + b"\r\n" * number + data[200 + 2 * number :]
        probe(image)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "PPM", "PNG", "GIF", "WEBP", "TIFF"])
def test_a_users_file_cannot_make_decoding_lenient(monkeypatch, kind):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = stored(noise(90, 60), kind)
    for share in (0.5, 0.97):
        with pytest.raises(BadImage, match=r"^x: cannot be decoded: "):
            probe(data[: int(len(data) * share)])
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
