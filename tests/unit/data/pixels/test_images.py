import io
import json
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms, ImageFile

from mars.data.pixels.images import MAX_PIXELS, BadImage, decode_image, probe_size
from mars.data.pixels.stored import MAX_FILE_BYTES
from mars.data.prompts.budget import ImageBudget, model_image_size, num_image_tokens
from mars.errors import DataError
from mars.types import ImageRef

BAD = Path(__file__).parents[3] / "bad" / "images"
EXPECTED = json.loads((BAD / "expected.json").read_text())


def photo(width=24, height=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def decode(path, encoding="rgb"):
    return decode_image(ImageRef(str(path), probe_size(str(path), encoding, str(path)), encoding))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_bad_image_is_refused_with_its_name(name):
    path = str(BAD / name)
    assert Path(path).stat().st_size < 2048
    with pytest.raises(DataError) as caught:
        decode_image(ImageRef(path, (8, 8)))
    assert EXPECTED[name] in str(caught.value)
    assert path in str(caught.value)


# Header and end of these files are whole.
FOUND_BY_DECODING = {
    "bit_flip.png", "cut_after_header.jpg", "cut_first_scan.jpg", "cut_grey.jpg", "cut_in_the_middle.jpg",
    "cut_last_scan.jpg", "cut_near_the_end.jpg", "lost_interval.jpg", "no_pixels.png", "half_the_pixels.png",
    "one_byte_of_pixels_short.png",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - FOUND_BY_DECODING))
def test_a_bad_image_is_found_by_the_probe(name):
    with pytest.raises(BadImage) as caught:
        probe_size(str(BAD / name), "rgb", "row 7")
    assert EXPECTED[name] in str(caught.value)
    assert str(caught.value).startswith("row 7: ")


def test_missing_files_folders_and_unknown_encodings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadImage, match=r"nothing\.png: no such image") as caught:
        decode_image(ImageRef(str(tmp_path / "nothing.png"), (8, 8)))
    assert caught.value.reason == "missing"
    with pytest.raises(BadImage, match="not a file"):
        decode_image(ImageRef(str(tmp_path), (8, 8)))
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        special = {"pipe.png": "a named pipe", "socket.png": "a socket", "/dev/zero": "a device", ".": "a folder"}
        for name, kind in special.items():
            for read in (decode, lambda path: decode_image(ImageRef(str(path), (8, 8)))):
                with pytest.raises(BadImage, match=f"not a file; it is {kind}"):
                    read(tmp_path / name)
    with pytest.raises(DataError, match="unknown image encoding; got 'depth_magic'"):
        decode_image(ImageRef(str(tmp_path), (8, 8), "depth_magic"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
@pytest.mark.parametrize("part", [0.3, 0.9, 0.99])
def test_truncation_of_any_format_is_found_by_the_probe(tmp_path, suffix, part):
    whole = tmp_path / f"whole.{suffix}"
    photo(60, 40).save(whole)
    assert decode(whole).size == (60, 40)
    data = whole.read_bytes()
    with pytest.raises(BadImage):
        probe_size(data[: int(len(data) * part)], "rgb", "x")


def test_the_size_is_that_after_rotation_and_the_pixels_turn_with_it(tmp_path):
    corner = Image.new("RGB", (24, 16), (0, 0, 0))
    corner.paste((255, 0, 0), (0, 0, 8, 8))  # top left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: top left becomes top right
    for suffix in ("png", "webp", "tiff"):
        path = tmp_path / f"turned.{suffix}"
        corner.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        assert probe_size(str(path), "rgb", "x") == (16, 24)
        shown = decode(path)
        assert shown.size == (16, 24)
        assert shown.getpixel((14, 1)) == (255, 0, 0)
        assert shown.getpixel((1, 1)) == (0, 0, 0)


def test_rotation_written_after_the_pixels_of_a_png_is_seen_by_the_probe(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    payload = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(payload)) + b"eXIf" + payload + struct.pack(">I", zlib.crc32(b"eXIf" + payload))
    buffer = io.BytesIO()
    photo(24, 16).save(buffer, "PNG")
    data = buffer.getvalue()
    path = tmp_path / "late.png"
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert probe_size(str(path), "rgb", "x") == (16, 24)
    assert decode(path).size == (16, 24)


def test_alpha_lands_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:, :4] = (200, 0, 0, 255)
    rgba[:, 4:] = (0, 0, 0, 0)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
    assert decode(tmp_path / "rgba.png").getpixel((7, 0)) == (255, 255, 255)
    assert decode(tmp_path / "rgba.png").getpixel((0, 0)) == (200, 0, 0)
    assert decode(tmp_path / "la.png").getpixel((7, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    half.save(tmp_path / "half.png")
    assert decode(tmp_path / "half.png").getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(1, (0, 0, 4, 8))
    palette.save(tmp_path / "p.png", transparency=0)
    assert decode(tmp_path / "p.png").getpixel((0, 0)) == (40, 50, 60)
    assert decode(tmp_path / "p.png").getpixel((7, 0)) == (255, 255, 255)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert decode(tmp_path / "key.png").getpixel((0, 0)) == (255, 255, 255)


def test_the_largest_image_needs_8_bytes_a_pixel(tmp_path, monkeypatch):
    assert MAX_PIXELS * 8 < 2.7e8
    with Image.new("1", (8192, MAX_PIXELS // 8192 + 1)) as image:
        image.save(tmp_path / "large.png")
    with pytest.raises(BadImage, match=f"got 8192x4097; .* {MAX_PIXELS} pixels"):
        probe_size(str(tmp_path / "large.png"), "rgb", "x")
    with open(tmp_path / "long.jpg", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: takes no space
    with pytest.raises(BadImage, match=f"got {MAX_FILE_BYTES + 1} bytes"):
        probe_size(str(tmp_path / "long.jpg"), "rgb", "x")


def test_wide_images_of_8_bits_are_no_images_of_16(tmp_path):
    for name in ("wide.bmp", "wide.ppm", "wide.tiff"):
        photo(400, 16).save(tmp_path / name)
        assert decode(tmp_path / name).tobytes() == photo(400, 16).tobytes(), name


def test_lab_becomes_the_colour_that_it_means(tmp_path):
    srgb, lab = (ImageCms.createProfile(space) for space in ("sRGB", "LAB"))
    colour = Image.new("RGB", (8, 8), (200, 30, 60))
    ImageCms.applyTransform(colour, ImageCms.buildTransform(srgb, lab, "RGB", "LAB")).save(tmp_path / "lab.tiff")
    shown = decode(tmp_path / "lab.tiff").getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(shown, (200, 30, 60), strict=True)) <= 1
    data = (tmp_path / "lab.tiff").read_bytes()
    for photometric in (9, 10):  # ICC's and ITU's L*a*b*, which Pillow does not know
        other = data.replace(struct.pack("<HHIHH", 262, 3, 1, 8, 0), struct.pack("<HHIHH", 262, 3, 1, photometric, 0))
        with pytest.raises(BadImage):
            probe_size(other, "rgb", "x")


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_other_modes_become_rgb(tmp_path, mode):
    white = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    path = tmp_path / ("white.tiff" if mode in ("CMYK", "YCbCr") else "white.png")
    white.save(path)
    shown = decode(path)
    assert shown.mode == "RGB"
    assert shown.getpixel((3, 3)) == (255, 255, 255)


def test_grey_is_the_same_in_all_channels(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "g.png")
    assert decode(tmp_path / "g.png").getpixel((5, 1)) == (13, 13, 13)


def test_an_animation_shows_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for suffix in ("gif", "webp", "tiff", "png"):
        path = tmp_path / f"a.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert decode(path).getpixel((0, 0)) == (255, 0, 0)


def depth_file(path, values):
    Image.fromarray(np.asarray(values)).save(path)
    return path


def test_spatialbot_packing_by_hand(tmp_path):
    values = np.zeros((8, 8), dtype=np.uint16)
    values[0, :4] = (2500, 1023, 1024, 65535)
    image = decode(depth_file(tmp_path / "d.png", values), "depth_spatialbot")
    # 2500 = 2 * 1024 + 452; 2500 // 32 = 78, 78 * 8 = 624 = 2 * 256 + 112; 2500 % 32 = 4.
    assert [image.getpixel((x, 0)) for x in range(4)] == [(8, 112, 32), (0, 248, 248), (4, 0, 0), (252, 248, 248)]


def test_grey_depth_encodings_by_hand(tmp_path):
    values = np.full((8, 8), 1000, dtype=np.uint16)
    values[0, :3] = (3000, 2000, 20000)
    path = depth_file(tmp_path / "d.png", values)
    assert [decode(path, "depth_clip").getpixel((x, 0))[0] for x in range(4)] == [76, 51, 255, 26]
    minmax = decode(path, "depth_minmax")
    assert [minmax.getpixel((x, 0)) for x in (2, 3)] == [(255, 255, 255), (0, 0, 0)]
    assert minmax.getpixel((1, 0))[0] == round(1000 / 19000 * 255)
    coloured = decode(path, "depth_colormap")
    assert coloured.getpixel((2, 0)) != coloured.getpixel((3, 0))
    flat = depth_file(tmp_path / "flat.png", np.full((8, 8), 700, dtype=np.uint16))
    assert decode(flat, "depth_minmax").getpixel((0, 0)) == (0, 0, 0)


def test_depth_in_other_types_and_out_of_range(tmp_path):
    same = [
        decode(depth_file(tmp_path / "a.tiff", np.full((8, 8), 2500, dtype)), "depth_spatialbot").getpixel((0, 0))
        for dtype in (np.uint16, np.int32, np.float32)
    ]
    assert same == [(8, 112, 32)] * 3
    for value in (-1.0, 70000.0, np.nan, np.inf):
        path = depth_file(tmp_path / "b.tiff", np.full((8, 8), value, np.float32))
        with pytest.raises(BadImage, match="0 to 65535"):
            decode(path, "depth_minmax")
    photo().save(tmp_path / "c.png")
    with pytest.raises(BadImage, match="needs one channel of 16 or 32 bits; got mode RGB"):
        decode(tmp_path / "c.png", "depth_minmax")


def test_an_image_that_changed_size_is_refused(tmp_path):
    photo(24, 16).save(tmp_path / "a.png")
    with pytest.raises(BadImage, match="changed") as caught:
        decode_image(ImageRef(str(tmp_path / "a.png"), (16, 24)))
    assert caught.value.reason == "changed"


def test_images_in_parquet_cells(tmp_path):
    def encoded(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = [{"images": [encoded((i, 0, 0)), encoded((i, 1, 0))]} for i in range(7)]
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    for row in (6, 0, 3, 2, 5):
        for slot in (1, 0):
            assert decode_image(ImageRef(path, (8, 8), row=row, slot=slot)).getpixel((0, 0)) == (row, slot, 0)
    with pytest.raises(BadImage, match=r"a\.parquet:7, image 0: no such image"):
        decode_image(ImageRef(path, (8, 8), row=7, slot=0))
    with pytest.raises(BadImage, match=r"a\.parquet:1, image 2"):
        decode_image(ImageRef(path, (8, 8), row=1, slot=2))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadImage, match=r"b\.parquet:0, image 0"):
        decode_image(ImageRef(str(tmp_path / "b.parquet"), (8, 8), row=0, slot=0))


def test_the_probe_decodes_no_pixels_of_a_sound_file(tmp_path, monkeypatch):
    for suffix in ("png", "jpg", "gif", "webp"):
        photo(60, 40).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels decoded"))
    for suffix in ("png", "jpg", "gif", "webp"):
        assert probe_size(str(tmp_path / f"a.{suffix}"), "rgb", suffix) == (60, 40)


QWEN25 = ImageBudget(min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28, patch_size=14, merge_size=2)


def test_sizes_by_hand():
    assert model_image_size((112, 112), QWEN25) == (112, 112)
    assert num_image_tokens((112, 112), QWEN25) == 16
    assert model_image_size((1280, 1024), QWEN25) == (1120, 896)
    assert num_image_tokens((1280, 1024), QWEN25) == 1280
    assert model_image_size((42, 42), QWEN25) == (56, 56)  # 1.5 units round to the even 2
    assert model_image_size((10, 20), QWEN25) == (56, 84)
