"""`mars data show`: the contact sheet of a file; and the cache of image headers."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars.cli.app import app
from mars.data.pixels.headers import HeaderCache, cache_file
from mars.data.pixels.images import decode_image, probe_size
from mars.errors import ConfigError, DataError, SetupError
from tests.unit.checks.noise_rows import row, write, write_pictures


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path)


def test_headers_are_read_once_while_files_stay(folder, tmp_path, monkeypatch):
    paths = [str(folder / f"{i}.png") for i in range(3)]
    for path in paths[:2]:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    read = []

    def counted(source, encoding, name):
        read.append(source)
        return probe_size(source, encoding, name)

    monkeypatch.setattr("mars.data.pixels.headers.probe_size", counted)
    file = cache_file("f" * 64)
    assert file.is_relative_to(tmp_path / "cache")

    def sizes():
        read.clear()
        with HeaderCache(file) as cache:
            return [cache.probe(path, "rgb", path) for path in paths]

    assert sizes() == [(64, 48)] * 3
    assert read == paths
    assert sizes() == [(64, 48)] * 3
    assert read == paths[2:]  # changed a moment ago: it may change again
    Image.new("RGB", (30, 40)).save(paths[0])
    assert sizes() == [(30, 40), (64, 48), (64, 48)]
    file.write_text("[1, 2]")
    assert sizes() == [(30, 40), (64, 48), (64, 48)]
    (folder / "1.png").unlink()
    with pytest.raises(DataError, match="no such image"):
        sizes()


# The contact sheet


def test_the_sheet_shows_every_source_with_its_boxes(folder, capsys):
    depth = np.full((48, 64), 2500, dtype=np.uint16)
    Image.fromarray(depth).save(folder / "depth.png")
    rows = [row(0, "depth.png", sources=["rgb", "depth"], encodings=["rgb", "depth_spatialbot"])]
    rows += [row(i % 12, text=f"number {i}") for i in range(30)] + [row("none.png"), row(text="words", truth="x")]
    rows[1]["prompt"][0]["content"] += "</pre><script>alert(1)</script>\u202e"
    file = write(folder, rows)
    app(["data", "show", file, str(folder / "out" / "sheet.html")], standalone_mode=False)
    page = (folder / "out" / "sheet.html").read_text()
    assert page.count('<section class="card">') == 12
    assert "12 of 32 usable rows of 33" in page
    assert page.count("<img ") == 1 + 11  # the first row has two, the last none
    assert page.count("<rect ") == 12
    assert '<rect class="truth" x="0.015625" y="0.041' in page  # 1 of 64, 2 of 48
    assert "image_missing" in page
    app(["data", "show", file, str(folder / "part.html"), "--from", "3", "--to", "4"], standalone_mode=False)
    assert "2 of 2 usable rows of 33, only those from 3 to 4" in (folder / "part.html").read_text()
    app(["data", "show", file, str(folder / "all.html"), "--rows", "40"], standalone_mode=False)
    page = (folder / "all.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(pictures[1]))).getpixel((5, 5)) == (8, 112, 32)
    shown = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    from mars.types import ImageRef

    assert shown.tobytes() == decode_image(ImageRef(str(folder / "0.png"), (64, 48))).tobytes()


def test_a_sheet_that_cannot_be_written(folder):
    file = write(folder, [row(0)])
    for out in (folder, folder / "0.png" / "sheet.html"):
        with pytest.raises(SetupError, match=r"OUT: .*(cannot be written|want a file)"):
            app(["data", "show", file, str(out)], standalone_mode=False)
    assert not list(folder.glob(".tmp*")) + list(folder.parent.glob(".tmp*"))


def test_a_sheet_is_not_written_over_the_rows(folder):
    file = write(folder, [row(0)])
    before = Path(file).read_bytes()
    with pytest.raises(ConfigError, match=r"the name of a page ends with \.html"):
        app(["data", "show", file, file], standalone_mode=False)
    assert Path(file).read_bytes() == before


def test_a_folder_is_said_to_be_one(folder):
    with pytest.raises(DataError, match="is a folder; name its"):
        app(["data", "show", str(folder), str(folder / "o.html")], standalone_mode=False)


def test_a_sheet_of_an_unreadable_file(folder):
    (folder / "x.parquet").write_text("no parquet")
    for name in ("x.parquet", "none.jsonl", "0.png"):
        with pytest.raises(DataError, match=name):
            app(["data", "show", str(folder / name), str(folder / "o.html")], standalone_mode=False)
    assert not (folder / "o.html").exists()
