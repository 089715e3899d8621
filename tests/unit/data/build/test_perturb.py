"""Changed images under the same question: pixels worked out by hand, and boxes that stay around their objects."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.data.build.moving import moved
from mars.data.build.perturb import beside, fitted, mixed, rotated
from mars.data.convert.eval_json import read_json_rows
from mars.data.rows.dataset import read_prompts
from mars.data.rows.problems import RowError
from mars.errors import ConfigError, DataError
from mars.rewards.grounding import read_truth
from mars.types import ImageRef, Message, Prompt, Source
from tests.examples import examples
from tests.shipped.recipes.recipe_files import module_of
from tests.unit.data.build.coloured import SIZE, build, make_rows, plane


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


@examples(60)
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


def row_of(truth, **extra_info) -> Prompt:
    source = Source("image", ImageRef("a.png", (48, 32)))
    return Prompt("0", "rows:0", "rows", (Message("user", "<image>What?"),), (source,), truth, extra_info)


def twice(box):
    return tuple(2 * side + 0.123 for side in box)


def stay(box):
    return box


def test_boxes_of_truths():
    assert moved(row_of("[[0, 1, 2, 3]]"), twice) == "[[0.12, 2.12, 4.12, 6.12]]"
    labelled = '{"bbox_2d": [0, 1, 2, 3], "label": "x", "number": 3}'
    assert moved(row_of(labelled), stay) == labelled
    assert moved(row_of("[]"), twice) == "[]"
    assert moved(row_of("two cars"), twice) == "two cars"
    # 250 of 1000 of 48 pixels are 12, of 32 pixels 8.
    assert moved(row_of("[[250, 250, 500, 500]]", box_space="norm_1000"), stay) == "[[12, 8, 24, 16]]"


@pytest.mark.parametrize(
    ("truth", "right"),
    [
        ("[1, 2, 11, 12]", "[2, 37, 12, 47]"),
        ("```json\n[[1, 2, 11, 12]]\n```", "[[2, 37, 12, 47]]"),
        ("```\n[[1, 2, 11, 12]]\n```", "[[2, 37, 12, 47]]"),
        ("<answer>```json\n[[1, 2, 11, 12]]\n```</answer>", "[[2, 37, 12, 47]]"),
        ("<think>one</think><answer>[[1, 2, 11, 12]]</answer>", "[[2, 37, 12, 47]]"),
        ('\n {"bbox_2d": [1, 2, 11, 12]}', '{"bbox_2d": [2, 37, 12, 47]}'),
    ],
)
def test_boxes_move_in_every_form_that_rewards_read(truth, right):
    """By 90 degrees (x, y) of a 48 x 32 image goes to (y, 48 - x): 2 to 12, and 48 - 11 = 37 to 47."""
    _, move = rotated(Image.fromarray(plane()), 90)
    assert json.loads(moved(row_of(truth), move)) == json.loads(right)
    assert read_truth(truth) == [(1, 2, 11, 12)], "the reward reads it"


BAD = ["[[NaN, 1, 2, 3]]", "[[1e400, 1, 2, 3]]", "[[Infinity, 1, 2, 3]]", f"[[{10**400}, 1, 2, 3]]"]
BAD += [f"[[{'1' * 5000}, 1, 2, 3]]", "[[11, 12, 1, 2]]", "[[1, 2, 300, 12]]", "[[-40, 2, -10, 12]]", "[[1, 2, 3]]"]
BAD += ['[{"box": [1, 2, 3, 4]}]', "[[1, 2, 3, true]]", "[", '[["1", 2, 3, 4]]', "```json\n[[1, 2]]\n```", "[red]"]
BAD += [r'[{"bbox_2d": [1, 2, 3, 4], "label": "\ud800"}]']  # half of a surrogate pair cannot be written


@pytest.mark.parametrize("change", ["rotation", "distractor"])
def test_a_malformed_truth_is_its_rows_problem_and_never_becomes_a_valid_one(tmp_path, change):
    source = make_rows(tmp_path / "in", len(BAD) + 1, sources=("image",))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row, truth in zip(rows, BAD, strict=False):
        row["answer"] = truth
    source.write_text("\n".join(map(json.dumps, rows)))
    more = ["--right-angles"] if change == "rotation" else ["--side", "left"]
    built = build(tmp_path / "out", "perturb", source, "--change", change, *more)
    assert [row["truth"] for row in built] == ["nothing"]
    metadata = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert metadata["splits"]["train"]["dropped"] == {"truth": len(BAD)}


def test_a_distractor_is_never_wider_than_the_image():
    wide = Image.new("RGB", (400, 10), (200, 0, 0))
    both, _ = beside(Image.new("RGB", (40, 20)), wide, left=False)
    assert both.size == (80, 20), "400 x 10 would be 800 x 20; it becomes 40 x 1 in the middle of white"
    assert (np.asarray(both)[:8, 40:] == 255).all()
    assert (np.asarray(both)[9:10, 40:] == (200, 0, 0)).all()


@pytest.mark.parametrize("change", ["distractor", "rotation"])
def test_what_would_be_too_large_is_refused_before_it_is_made(monkeypatch, change):
    """As if an image could have 3000 pixels: 48 x 32 has 1536, but 96 x 32 has 3072, and 57 x 57 (45 degrees) 3249."""
    monkeypatch.setattr("mars.data.pixels.images.MAX_PIXELS", 3000)
    image = Image.fromarray(plane())
    assert rotated(image, 90)[0].size == (32, 48)
    for maker in ("new", "Image.rotate"):
        monkeypatch.setattr(f"PIL.Image.{maker}", lambda *args, **more: pytest.fail("it was made"))
    with pytest.raises(RowError, match=r"would have .* and 3000 pixels") as caught:
        beside(image, image, left=True) if change == "distractor" else rotated(image, 45)
    assert caught.value.reason == "image_size"


FIELDS = {"facts": ["a red car"], "map": {"lines": {"Line 1 (East)": ["A", "B"]}}, "caption": "A car.", "none": None}


@pytest.mark.parametrize("change", ["distractor", "rotation", "mixup"])
def test_fields_of_the_reward_and_examples_stay(tmp_path, change):
    texts = {"answer": "yes", "response": "<answer>yes</answer>", "mono_responses": {"infrared": "<answer>no</answer>"}}
    extra = {**FIELDS, "boxes": [[4, 6, 20, 16]]}
    more = ["--side", "left"] if change == "distractor" else []
    for fields, kept in ((FIELDS, True), (extra, False)):
        source = make_rows(tmp_path / f"in{kept}", 3, extra_info=fields, **texts)
        build(tmp_path / f"out{kept}", "perturb", source, "--change", change, *more)
        read = read_prompts(
            [str(tmp_path / f"out{kept}" / "train.parquet")], None, lambda _: None, read_json=read_json_rows
        )
        for prompt in read.usable:
            found = prompt.extra_info
            assert {name: found.get(name) for name in FIELDS} == FIELDS
            # A box that moves may be in the example.
            assert (prompt.response, prompt.mono_responses) == (
                (texts["response"], texts["mono_responses"]) if kept else (None, {})
            )
            if not kept and change == "distractor":  # 48 pixels of the other image are on the left
                assert found["boxes"] == [[52, 6, 68, 16]]
            assert module_of("perception_r1").facts_of(found) == ("a red car",)
        assert len(read.usable) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, "extra_info.boxes: box 1 of 1 is not four numbers"),
        ({"boxes": 3}, "extra_info.boxes: not a list of boxes"),
        ({"bbox": "[[1, 2, 300, 4]]"}, "extra_info.bbox: box 1 of 1 is outside the image"),
        ({"points": [[1, 2]]}, "extra_info.points: cannot be moved"),
    ],
)
def test_places_that_cannot_be_moved_are_refused(tmp_path, fields, message):
    source = make_rows(tmp_path / "in", 2, extra_info=fields)
    with pytest.raises(DataError, match=message):
        build(tmp_path / "out", "perturb", source, "--change", "rotation")
    if "points" in fields:
        assert len(build(tmp_path / "out", "perturb", source, "--change", "mixup")) == 2, "nothing moves"


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
