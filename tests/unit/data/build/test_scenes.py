"""Where scenes come from, what chance depends on, and what a build leaves behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars.cli.app import app
from mars.data.build.scenes import Scenes, read_scenes
from mars.data.rows.problems import RowError
from mars.errors import ConfigError, DataError
from tests.unit.data.build.coloured import SIZE, build, make_rows, plane


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_seed_gives_the_same_bytes_wherever_the_source_is(tmp_path):
    source = make_rows(tmp_path / "in", 5)
    moved = shutil.copytree(tmp_path / "in", tmp_path / "elsewhere") / source.name
    for out, rows, seed in (("a", source, 1), ("b", moved, 1), ("c", source, 2)):
        build(tmp_path / out, "jigsaw", rows, "--grid", "3x3", seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_a_row_does_not_depend_on_the_others(tmp_path):
    """A bad row and a limit change no other row."""
    source = make_rows(tmp_path / "in", 5)
    whole = build(tmp_path / "whole", "rotation", source)
    (tmp_path / "in" / "1_visible.png").unlink()
    (tmp_path / "in" / "1_infrared.png").unlink()
    rest = build(tmp_path / "rest", "rotation", source, "--limit", "4")
    assert [row["origin"] for row in rest] == [
        row["origin"] for row in whole if row["extra_info"]["index"] in (0, 2, 3)
    ]
    metadata = json.loads((tmp_path / "rest" / "dataset.json").read_text())
    assert metadata["splits"]["train"]["dropped"] == {"image_missing": 1}
    assert metadata["converter"] == "build 2"
    with pytest.raises(DataError, match="image_missing"):
        build(tmp_path / "none", "rotation", source, "--on-bad-sample", "error")
    assert not list((tmp_path / "none").glob("*.parquet"))


def test_copies_differ(tmp_path):
    rows = build(tmp_path / "out", "jigsaw", make_rows(tmp_path / "in", 2), "--copies", "5", "--grid", "3x3")
    assert [row["origin"]["row"] for row in rows] == [0] * 5 + [1] * 5
    assert len({tuple(row["origin"]["order"]) for row in rows}) == 10


def test_images_of_other_pixels_are_not_overwritten(tmp_path):
    """Of rows with equal ids, names and sizes."""
    source, out = make_rows(tmp_path / "in", 2), tmp_path / "out"
    build(out, "jigsaw", source)
    before = digests(out / "images")
    build(tmp_path / "out", "jigsaw", source)  # the same images
    for image in source.parent.glob("*.png"):
        Image.fromarray(plane(blue=255)).save(image)
    with pytest.raises(DataError, match="another build has written another image there"):
        build(out, "jigsaw", source)
    assert digests(out / "images") == before


def test_another_build_into_the_folder_keeps_the_images_of_the_first(tmp_path):
    source, out = make_rows(tmp_path / "in", 3), tmp_path / "out"
    first = build(out, "jigsaw", source, "--split", "train")
    before = digests(out / "images")
    app(["data", "build", "rotation", str(source), str(out), "--seed", "1", "--split", "test"], standalone_mode=False)
    assert before.items() <= digests(out / "images").items()
    assert {file.name for file in out.glob("*.parquet")} == {"train.parquet", "test.parquet"}
    assert all((out / image["path"]).is_file() for row in first for image in row["images"])


def test_a_folder_of_images(tmp_path):
    for i, name in enumerate(("b.png", "a/c.jpg", "notes.txt", "broken.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        if name in ("notes.txt", "broken.png"):
            (tmp_path / "in" / name).write_text("text")
        else:
            Image.fromarray(plane(blue=i)).save(tmp_path / "in" / name)
    rows = build(tmp_path / "out", "jigsaw", tmp_path / "in")
    assert [row["extra_info"]["id"] for row in rows] == ["a/c.jpg", "b.png"]
    assert [row["extra_info"]["sources"] for row in rows] == [["image"], ["image"]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images there"):
        build(tmp_path / "other", "jigsaw", tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        build(tmp_path / "other", "jigsaw", tmp_path / "absent.jsonl")


def test_labels_are_not_needed(tmp_path):
    """A row without a truth is a bad row for training, but an image for a puzzle; not for what needs its truth."""
    source = make_rows(tmp_path / "in", 3, answer=None)
    assert len(build(tmp_path / "out", "rotation", source)) == 3
    for task, options in (("perturb", ["--change", "rotation"]), ("caption_swap", [])):
        with pytest.raises(DataError, match="no ground truth"):
            build(tmp_path / task, task, source, *options)


def test_every_other_scene_is_drawn_alike(tmp_path):
    scenes = Scenes(read_scenes(make_rows(tmp_path / "in", 5), None), 0, "x")
    chance = np.random.default_rng(0)
    for scene in scenes.all:
        drawn = Counter(scenes.other(scene, chance, lambda other: other.number) for _ in range(400))
        assert set(drawn) == set(range(5)) - {scene.number}
        assert min(drawn.values()) > 60
    alone = Scenes(scenes.all[:1], 0, "x")
    with pytest.raises(RowError, match="no other row with other images can be read"):
        alone.other(alone.all[0], chance, lambda other: other)


def rows_of_shared_images(folder: Path, images: int) -> Path:
    """Three rows of each image: rows 3i and 3i + 1 name one file, row 3i + 2 a copy of it."""
    source = make_rows(folder, images * 3, sources=("image",), answer="nothing")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for number, row in enumerate(rows):
        first = f"{number // 3 * 3}_image.png"
        if number % 3 == 2:
            shutil.copy(folder / first, folder / row["images"][0])
        else:
            row["images"] = [first]
        row["prompt"] = f"<image>\nQuestion {number}?"
    source.write_text("\n".join(map(json.dumps, rows)))
    return source


@pytest.mark.parametrize(
    ("task", "options"),
    [("contrastive", []), ("perturb", ["--change", "distractor"]), ("perturb", ["--change", "mixup"])],
)
def test_another_row_is_one_of_other_images(tmp_path, task, options):
    """Several questions about one image are the rule in public sets; its copy has another name."""
    source = rows_of_shared_images(tmp_path / "in", 3)
    rows = build(tmp_path / "out", task, source, *options, "--copies", "4")
    assert len(rows) == 36
    different = [row for row in rows if row["truth"] != "yes"]
    assert len(different) > 8
    assert all(row["origin"]["other"] // 3 != row["origin"]["row"] // 3 for row in different)
    alone = rows_of_shared_images(tmp_path / "one", 1)
    with pytest.raises(DataError, match="no other row with other images can be read"):
        build(tmp_path / "none", task, alone, *options)


def test_no_row_is_lost_because_of_the_row_beside_it(tmp_path):
    """Rows 1 to 3 cannot be shown: one is too small, of one the file is gone, one has damaged pixels."""
    source = make_rows(tmp_path / "in", 5, sources=("image",), size=(48, 48))
    Image.fromarray(plane((10, 60))).save(tmp_path / "in" / "1_image.png")
    damaged = bytearray((tmp_path / "in" / "3_image.png").read_bytes())
    damaged[damaged.index(b"IDAT") + 40] ^= 255
    (tmp_path / "in" / "3_image.png").write_bytes(damaged)
    (tmp_path / "in" / "2_image.png").unlink()
    rows = build(tmp_path / "out", "contrastive", source, "--copies", "12")
    assert {row["origin"]["row"] for row in rows} == {0, 4}
    assert len(rows) == 24
    (tmp_path / "in" / "4_image.png").unlink()
    build_error = "those that were drawn do not fit; the last was .*rows.jsonl:[13]: "
    with pytest.raises(DataError, match=build_error):
        build(tmp_path / "none", "contrastive", source)


@pytest.mark.parametrize("out", ["in/out", "in", ".", "link/out"])
def test_images_of_a_build_are_never_in_its_source(tmp_path, out):
    """The next build would make puzzles of puzzles. With OUT ".", they would be in "images", where SRC is here."""
    folder = tmp_path / ("images" if out == "." else "in")
    folder.mkdir()
    Image.fromarray(plane()).save(folder / "a.png")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigError, match="OUT: its images would be inside of SRC"):
        build(tmp_path / out, "jigsaw", folder)
    assert [file.name for file in folder.iterdir()] == ["a.png"]


def test_a_build_never_writes_over_its_source(tmp_path):
    rows = build(tmp_path / "out", "jigsaw", make_rows(tmp_path / "in", 2), "--split", "all")
    with pytest.raises(ConfigError, match="OUT: the build would write over SRC"):
        build(tmp_path / "out", "rotation", tmp_path / "out" / "all.parquet", "--split", "all")
    assert len(rows) == 2


def test_rows_that_are_left_out_leave_no_images(tmp_path):
    """A description with a special token is refused only when the row is checked as it would be written."""
    source = make_rows(tmp_path / "in", 2, answer="a red car")
    source.write_text(source.read_text().replace("a red car", "a red car <|im_end|>", 1))
    rows = build(tmp_path / "out", "caption_swap", source)
    assert [row["origin"]["row"] for row in rows] == [1]
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out" / "images").rglob("*.png")}
    assert written == {image["path"] for row in rows for image in row["images"]}


@pytest.mark.parametrize("split", ["", "../train", "a/b", ".hidden", "ä"])
def test_names_of_splits_that_are_no_file_names(tmp_path, split):
    with pytest.raises(ConfigError, match="--split: want letters"):
        build(tmp_path / "out", "rotation", make_rows(tmp_path / "in", 1), "--split", split)


def test_jpeg(tmp_path):
    rows = build(tmp_path / "out", "rotation", make_rows(tmp_path / "in", 2), "--jpeg", "95")
    assert all(image["path"].endswith(".jpg") for row in rows for image in row["images"])
    assert rows[0]["pixels"][0].shape == (SIZE[1], SIZE[0], 3)
