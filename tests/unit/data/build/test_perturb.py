"""Changed images under the same question: pixels worked out by hand, and boxes that stay around their objects."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mars.data.build.perturb import beside, fitted, mixed, moved, rotated
from mars.data.rows.problems import RowError
from mars.errors import ConfigError
from tests.unit.data.build.coloured import SIZE, build, make_rows, plane

WHOLE = (1.0, 1.0)


def painted(size, box) -> Image.Image:
    """A white image with a black box."""
    pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 0
    return Image.fromarray(pixels)


def dark(image: Image.Image) -> tuple[int, int, int, int]:
    """The box around all pixels that are more black than white."""
    ys, xs = np.nonzero(np.asarray(image)[..., 0] < 128)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


@pytest.mark.parametrize(
    ("angle", "box"), [(90, (5, 30, 10, 38)), (180, (30, 15, 38, 20)), (270, (15, 2, 20, 10)), (-90, (15, 2, 20, 10))]
)
def test_right_angles_move_boxes_to_the_pixel(angle, box):
    """A 40 x 25 image, box (2, 5, 10, 10). By 90 degrees (x, y) goes to (y, 40 - x), by 270 to (25 - y, x)."""
    image, move = rotated(painted((40, 25), (2, 5, 10, 10)), angle)
    assert dark(image) == box
    assert move((2, 5, 10, 10)) == pytest.approx(box)
    assert np.array_equal(np.asarray(rotated(Image.fromarray(plane()), 90)[0]), np.rot90(plane()))


@settings(max_examples=60)
@given(angle=st.floats(-180, 180), x=st.integers(0, 60), y=st.integers(0, 40), data=st.data())
def test_a_rotated_box_is_the_smallest_around_what_it_was_around(angle, x, y, data):
    box = (x, y, data.draw(st.integers(x + 12, 80)), data.draw(st.integers(y + 12, 60)))
    image, move = rotated(painted((80, 60), box), angle)
    assert move(box) == pytest.approx(dark(image), abs=2)
    corners = [image.getpixel((i, j)) for i in (0, image.width - 1) for j in (0, image.height - 1)]
    if 5 < abs(angle) % 90 < 85:
        assert corners == [(255, 255, 255)] * 4


def test_a_distractor_on_either_side():
    image, other = painted((40, 20), (2, 5, 10, 10)), Image.new("RGB", (10, 10), (200, 0, 0))
    right, stays = beside(image, other, left=False)
    left, move = beside(image, other, left=True)
    assert right.size == left.size == (60, 20), "the other image is scaled to the height"
    assert np.array_equal(np.asarray(right)[:, :40], np.asarray(image))
    assert np.array_equal(np.asarray(left)[:, 20:], np.asarray(image))
    assert (np.asarray(right)[:, 40:] == (200, 0, 0)).all()
    assert (stays((2, 5, 10, 10)), move((2, 5, 10, 10))) == ((2, 5, 10, 10), (22, 5, 30, 10))


def test_a_mixture():
    image, other = Image.new("RGB", (40, 20), (200, 100, 0)), Image.new("RGB", (40, 20), (0, 100, 100))
    mixture, stays = mixed(image, other, 0.75, None)
    assert mixture.size == (40, 20)
    assert np.abs(np.asarray(mixture).astype(int) - (150, 100, 25)).max() <= 1
    assert stays((1, 2, 3, 4)) == (1, 2, 3, 4)
    square, move = mixed(image, other, 0.75, 80)
    assert square.size == (80, 80), "40 x 20 becomes 80 x 40 in the middle of white"
    assert move((2, 5, 10, 10)) == (4, 30, 20, 40)
    assert (np.asarray(square)[:20] == 255).all()
    assert np.abs(np.asarray(square)[21:59].astype(int) - (150, 100, 25)).max() <= 1


@pytest.mark.parametrize(
    ("frame", "box"), [((80, 40), (4, 10, 20, 20)), ((40, 40), (2, 15, 10, 20)), ((60, 20), (12, 5, 20, 10))]
)
def test_fitting_into_a_frame(frame, box):
    image, move = fitted(painted((40, 20), (2, 5, 10, 10)), frame)
    assert image.size == frame
    assert move((2, 5, 10, 10)) == box == dark(image)


def test_boxes_of_truths():
    def twice(box):
        return tuple(2 * side + 0.123 for side in box)

    assert moved("[[0, 1, 2, 3]]", twice, WHOLE) == "[[0.12, 2.12, 4.12, 6.12]]"
    assert moved('{"bbox_2d": [0, 1, 2, 3], "label": "x"}', lambda box: box, (0.5, 2.0)) == (
        '{"bbox_2d": [0, 2, 1, 6], "label": "x"}'
    )
    assert moved("[]", twice, WHOLE) == "[]"
    assert moved("two cars", twice, WHOLE) == "two cars"
    for bad in ("[[1, 2, 3]]", '[{"box": [1, 2, 3, 4]}]', "[1, 2, 3, 4]", "[[1, 2, 3, true]]", "[", '[["1", 2, 3, 4]]'):
        with pytest.raises(RowError):
            moved(bad, twice, WHOLE)


TRUTH = json.dumps([{"bbox_2d": [4, 6, 20, 16], "label": "car"}])


@pytest.mark.parametrize("change", ["distractor", "mixup", "rotation"])
@pytest.mark.parametrize("sources", ["all", "one", "infrared"])
def test_rows_keep_their_question_and_boxes_follow_the_first_image(tmp_path, change, sources):
    more = {"distractor": ["--side", "left"], "mixup": [], "rotation": ["--right-angles"]}[change]
    source = make_rows(tmp_path / "in", 6, answer=TRUTH)
    rows = build(tmp_path / "out", "perturb", source, "--change", change, "--sources", sources, *more)
    changed = set()
    for number, row in enumerate(rows):
        assert row["text"] == "<image><image>\nWhat is there?"
        assert (row["data_source"], row["extra_info"]["sources"]) == ("rows", ["visible", "infrared"])
        changed |= (names := set(row["origin"]["sources"]))
        for name, pixels in zip(("visible", "infrared"), row["pixels"], strict=True):
            original = plane(SIZE, 10 * number + (name == "infrared"))
            assert np.array_equal(pixels, original) == (name not in names)
            if name in names and change == "distractor":
                assert np.array_equal(pixels[:, 48:], original)
                assert (pixels[:, :48, 2] == 10 * row["origin"]["other"] + (name == "infrared")).all()
            if name in names and change == "rotation":
                assert np.array_equal(pixels, np.rot90(original, row["origin"]["angle"] // 90))
        ((box, label),) = [entry.values() for entry in json.loads(row["truth"])]
        assert label == "car"
        # Red and green of the image are the pixel's first place, so the box still shows x 4-19 and y 6-15.
        if change != "mixup":
            inside = row["pixels"][0][box[1] : box[3], box[0] : box[2]]
            assert (inside[..., 0].min(), inside[..., 0].max()) == (4, 19)
            assert (inside[..., 1].min(), inside[..., 1].max()) == (6, 15)
        else:
            assert box == [4, 6, 20, 16]
            assert 0.7 <= row["origin"]["share"] <= 0.9
    assert changed == ({"infrared"} if sources == "infrared" else {"visible", "infrared"})


def test_boxes_in_thousandths_become_pixels(tmp_path):
    truth = json.dumps([[250, 500, 500, 1000]])  # of 48 x 32: 12, 16, 24, 32
    source = make_rows(tmp_path / "in", 3, answer=truth, extra_info={"box_space": "norm_1000"})
    rows = build(tmp_path / "out", "perturb", source, "--change", "distractor", "--side", "left")
    for row in rows:
        assert json.loads(row["truth"]) == [[60, 16, 72, 32]]
        assert row["extra_info"]["box_space"] == "original_pixels"


@pytest.mark.parametrize(
    ("change", "option"), [("mixup", ["--side", "left"]), ("rotation", ["--size", "64"]), ("mixup", ["--right-angles"])]
)
def test_an_option_of_another_change_is_refused(tmp_path, change, option):
    with pytest.raises(ConfigError, match=f"{option[0]}: not used by --change {change}"):
        build(tmp_path / "out", "perturb", tmp_path, "--change", change, *option)
