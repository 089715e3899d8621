"""Questions about an image and a changed one: what is asked is what was done, to the pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mars.data.build.pairs import part_of, view_of
from mars.data.rows.problems import RowError
from mars.errors import ConfigError, DataError
from tests.unit.data.build.coloured import SIZE, build, make_rows, plane


def blue(row: int, source: str) -> int:
    return 10 * row + (source == "infrared")


@pytest.mark.parametrize(("sources", "shown"), [("one", 1), ("all", 2), ("visible", 1), ("cross", 1)])
def test_the_angle_is_the_one_of_the_image(tmp_path, sources, shown):
    rows = build(tmp_path / "out", "rotation", make_rows(tmp_path / "in", 8), "--sources", sources)
    for number, row in enumerate(rows):
        pairs = row["origin"]["sources"]
        assert len(pairs) == shown
        assert row["text"].startswith("<image>" * 2 * shown + "\n")
        for i, (one, other) in enumerate(pairs):
            assert (one == other) == (sources != "cross")
            assert np.array_equal(row["pixels"][2 * i], plane(SIZE, blue(number, one)))
            square = plane(SIZE, blue(number, other))[:, 8:40]  # 32 x 32 in the middle of 48 x 32
            turned = np.rot90(square, int(row["truth"]) // 90)  # counter-clockwise
            assert np.array_equal(row["pixels"][2 * i + 1], turned)
            assert row["extra_info"]["sources"][2 * i : 2 * i + 2] == [one, f"{other}_rotated"]
        assert sources != "visible" or pairs == [["visible", "visible"]]
    assert {row["truth"] for row in rows} <= {"0", "90", "180", "270"}
    assert len({row["truth"] for row in rows}) > 2


@pytest.mark.parametrize("sources", ["one", "all", "cross"])
def test_a_part_is_in_the_quarter_that_is_named(tmp_path, sources):
    size = (64, 50)  # 20 % of a quarter has fewer than 8 pixels
    rows = build(tmp_path / "out", "position", make_rows(tmp_path / "in", 12, size=size), "--sources", sources)
    assert len(rows) == 12
    for number, row in enumerate(rows):
        for (one, other), part in zip(row["origin"]["sources"], row["pixels"][1::2], strict=True):
            (x, y), (right, bottom) = part[0, 0, :2].tolist(), (part[-1, -1, :2] + 1).tolist()
            assert np.array_equal(part, plane(size, blue(number, other))[y:bottom, x:right])
            upper, left = bottom <= size[1] / 2, right <= size[0] / 2
            assert upper or y >= size[1] / 2
            assert left or x >= size[0] / 2
            assert row["truth"] == f"{'upper' if upper else 'lower'} {'left' if left else 'right'}"
            assert 8 <= right - x <= 0.4 * size[0]
            assert 8 <= bottom - y <= 0.4 * size[1]
            assert (one == other) == (sources != "cross")
    assert len({row["truth"] for row in rows}) == 4


def test_parts_in_whole_pixels():
    assert part_of((100, 40), (0.5, 0.0, 0.25, 0.5), "image") == (50, 0, 75, 20)
    assert part_of((101, 41), (0.5, 0.5, 0.5, 0.5), "image") == (51, 21, 101, 41), "inside its quarter"
    with pytest.raises(RowError, match="a part of 7x20 pixels"):
        part_of((100, 40), (0.5, 0.0, 0.07, 0.5), "image")


@pytest.mark.parametrize("sources", ["one", "cross", "infrared"])
def test_two_views_of_a_scene_or_of_two(tmp_path, sources):
    rows = build(tmp_path / "out", "contrastive", make_rows(tmp_path / "in", 16), "--sources", sources)
    for number, row in enumerate(rows):
        first, second = row["origin"]["sources"]
        assert (row["truth"] == "yes") == (row["origin"]["other"] == number)
        assert (first == second) == (sources != "cross")
        assert [view.shape for view in row["pixels"]] == [(19, 19, 3)] * 2, "60 % of 32"
        assert row["extra_info"]["sources"] == ["first", "second"]
    truths = [row["truth"] for row in rows]
    assert 4 <= truths.count("yes") <= 12
    assert len({row["origin"]["other"] for row in rows if row["truth"] == "no"}) > 3


def test_shapes_and_sizes_tell_nothing(tmp_path):
    """Both views are squares of 60 % of the shorter side of two rows: this one, and one drawn for yes as for no."""
    chance = np.random.default_rng(0)
    shapes = [(64, 48), (48, 64), (64, 43), (60, 60), (64, 36), (120, 90)]
    sizes = {f"{number:02}.png": shapes[chance.integers(6)] for number in range(30)}
    (tmp_path / "in").mkdir()
    for name, (width, height) in sizes.items():
        pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    rows = build(tmp_path / "out", "contrastive", tmp_path / "in", "--copies", "5")
    assert len(rows) == 150
    for row in rows:
        both = (row["origin"]["row"], row["origin"]["size_from"])
        side = int(0.6 * min(min(sizes[f"{number:02}.png"]) for number in both))
        assert [view.shape for view in row["pixels"]] == [(side, side, 3)] * 2
        assert row["origin"]["size_from"] != row["origin"]["row"]
        assert row["truth"] == "yes" or row["origin"]["other"] == row["origin"]["size_from"]
    assert 50 < sum(row["truth"] == "yes" for row in rows) < 100


def test_the_sensor_tells_nothing(tmp_path):
    """Every second row has the name of another sensor: a pair of two sensors could only be a "no"."""
    source = make_rows(tmp_path / "in", 8, sources=("visible",))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows[1::2]:
        row["extra_info"]["sources"] = ["infrared"]
    source.write_text("\n".join(map(json.dumps, rows)))
    built = build(tmp_path / "out", "contrastive", source, "--copies", "5")
    assert len(built) == 40
    assert all(row["origin"]["sources"][0] == row["origin"]["sources"][1] for row in built)
    different = [row["origin"] for row in built if row["truth"] == "no"]
    assert len(different) > 10
    assert all(origin["row"] % 2 == origin["other"] % 2 for origin in different)


def test_the_shape_of_a_rotated_image_tells_nothing(tmp_path):
    rows = build(tmp_path / "out", "rotation", make_rows(tmp_path / "in", 8, size=(64, 40)))
    assert {row["pixels"][1].shape for row in rows} == {(40, 40, 3)}


def test_views_of_one_image_overlap():
    """Also in an image that is much longer than high: both views are of one square of it."""
    chance = np.random.default_rng(0)
    image = Image.fromarray(plane((250, 20)))
    for start in (0.0, 0.5, 1.0):
        for _ in range(20):
            view = np.asarray(view_of(image, start, 12, chance))[..., 0].astype(int)
            assert start * 230 - 1 <= view.min() <= view.max() <= start * 230 + 20
            assert 9 <= view.max() - view.min() <= 18


def test_images_that_give_no_answer(tmp_path):
    source = make_rows(tmp_path / "in", 2, sources=("visible",), size=(64, 64))
    same = {
        "rotation": np.rot90(plane((64, 64)), 2) // 2 + plane((64, 64)) // 2,
        "position": np.tile(plane((32, 32)), (2, 2, 1)),
    }
    flat = np.full((64, 64, 3), 9, dtype=np.uint8)
    for task, message in (
        ("rotation", "the same when it is rotated"),
        ("position", "has one colour, or is in several"),
    ):
        for image in (same[task], flat):
            for row in range(2):
                Image.fromarray(image).save(tmp_path / "in" / f"{row}_visible.png")
            with pytest.raises(DataError, match=message):
                build(tmp_path / task, task, source)


def test_each_view_is_of_its_own_scene(tmp_path):
    """Images of one colour: brightness and contrast do not change which channel is the largest."""
    source = make_rows(tmp_path / "in", 3, sources=("image",))
    for row, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200))):
        Image.new("RGB", SIZE, colour).save(tmp_path / "in" / f"{row}_image.png")
    rows = build(tmp_path / "out", "contrastive", source, "--copies", "8")
    assert len(rows) == 24
    for row in rows:
        largest = [int(view.reshape(-1, 3).mean(axis=0).argmax()) for view in row["pixels"]]
        assert largest == [row["origin"]["row"], row["origin"]["other"]]


def test_what_a_row_lacks_is_its_problem(tmp_path):
    source = make_rows(tmp_path / "in", 2, sources=("visible",))
    for task in ("rotation", "position", "contrastive"):
        with pytest.raises(DataError, match="--sources cross needs two sources"):
            build(tmp_path / "out", task, source, "--sources", "cross")
    both = make_rows(tmp_path / "both", 2)
    Image.fromarray(plane((40, 40))).save(tmp_path / "both" / "0_infrared.png")
    Image.fromarray(plane((40, 40))).save(tmp_path / "both" / "1_infrared.png")
    with pytest.raises(DataError, match=r"needs images of one size; got .*\(40, 40\)"):
        build(tmp_path / "out", "position", both, "--sources", "cross")
    with pytest.raises(DataError, match="the row has no source 'depth'; got visible"):
        build(tmp_path / "out", "rotation", source, "--sources", "depth")
    with pytest.raises(ConfigError, match="--sources: a question about two images"):
        build(tmp_path / "out", "contrastive", source, "--sources", "all")
    with pytest.raises(DataError, match="80 % of a quarter must be 10 pixels; the image has 24"):
        build(tmp_path / "out", "position", make_rows(tmp_path / "small", 2, size=(60, 24)))
    assert not list((tmp_path / "out").glob("*.parquet"))
