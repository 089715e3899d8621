"""The benchmark: scenes whose answer can be read off their pixels, rows that load, a teacher that follows its dial."""

import hashlib
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.data.synthetic.benchmark import SOURCES, TASKS, box_iou, make_item, right_for_both
from mars.data.synthetic.benchmark_rows import Teacher, response, teachers_response, write_benchmark
from mars.data.synthetic.scenes import SIDE
from mars.data.synthetic.write import SetSizes
from mars.errors import DataError
from tests.builders import load_prompts
from tests.examples import examples

ITEMS = [make_item(seed, "train", index) for seed in (0, 7) for index in range(300)]
SIZES = SetSizes(train=6, test=5, cold_start=40)
NEUTRAL = Teacher(0.5)


def read_off(image, task):
    """The answer to an image, found by looking at its pixels only."""
    pixels = image.reshape(SIDE, SIDE, -1).astype(float)[:, :, 0]
    bright = pixels > (pixels.min() + pixels.max()) / 2
    if task == "box":
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert all(edge % 7 == 0 for edge in edges)
        assert bright[edges[1] : edges[3], edges[0] : edges[2]].all()
        return " ".join(str(edge // 7) for edge in edges)
    cells = bright.reshape(4, 14, 4, 14).sum((1, 3)).reshape(16)
    assert set(cells) <= {0, 100}
    return str(np.flatnonzero(cells).item() + 1 if task == "where" else np.count_nonzero(cells))


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def load(folder, part):
    return load_prompts([str(folder / f"{part}.parquet")], None, "error", lambda prompt: None).prompts


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark(folder, seed=3, sizes=SIZES, teacher=NEUTRAL)
    return folder


def test_each_image_shows_the_answer_that_is_seen_in_it():
    for item in ITEMS:
        for source in SOURCES:
            assert read_off(getattr(item, source), item.task) == item.seen_in(source)


def test_what_each_light_shows():
    assert {item.light for item in ITEMS} == {"day", "night", "both"}
    for item in ITEMS:
        right = {"day": ["visible"], "night": ["infrared"], "both": ["visible", "infrared"]}[item.light]
        assert [source for source in SOURCES if item.seen_in(source) == item.answer] == right
        assert (item.decoy is None) == (item.light == "both")


def test_no_answer_is_right_for_scene_and_decoy():
    edges = [(low, high) for high in range(9) for low in range(high)]
    every_box = [(left, top, right, bottom) for left, right in edges for top, bottom in edges]
    two_boxes = []
    for item in ITEMS:
        if item.decoy is None:
            continue
        assert item.decoy != item.answer
        if item.task == "box":
            two_boxes.append([tuple(map(int, text.split())) for text in (item.answer, item.decoy)])
    assert len(two_boxes) > 100
    for scene, decoy in two_boxes[:40]:
        assert not [box for box in every_box if box_iou(box, scene) >= 0.5 and box_iou(box, decoy) >= 0.5]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0 0 2 2", "0 2 2 4", True),  # 0 0 2 4 has an IoU of 4/8 with each
        ("0 0 2 2", "2 2 4 4", False),  # the box around both has 4/16
        ("0 0 4 4", "2 0 6 4", True),  # 1 0 5 4 has 12/20 with each
        ("0 0 6 6", "0 0 2 2", False),
        ("3 3 5 5", "3 3 5 5", True),
    ],
)
def test_a_box_that_is_right_for_both(one, other, expected):
    assert right_for_both(one, other) is expected
    assert right_for_both(other, one) is expected


def test_the_larger_of_two_boxes_is_no_better_guess():
    """Scene and decoy are drawn alike. Of 600 pairs a share of 0.5 has a standard error of 0.02."""
    larger = []
    for index in range(900):
        item = make_item(2, "test", index, ("box",))
        if item.decoy is not None:
            edges = [tuple(map(int, text.split())) for text in (item.answer, item.decoy)]
            areas = [(right - left) * (bottom - top) for left, top, right, bottom in edges]
            if areas[0] != areas[1]:
                larger.append(areas[0] > areas[1])
    assert len(larger) > 500
    assert np.mean(larger) == pytest.approx(0.5, abs=0.08)


def test_boxes_are_inside_and_have_the_sizes_that_are_documented():
    boxes = [tuple(map(int, item.answer.split())) for item in ITEMS if item.task == "box"]
    assert len(boxes) > 150
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 8
        assert 0 <= top < bottom <= 8
    assert {right - left for left, _, right, _ in boxes} == {bottom - top for _, top, _, bottom in boxes}
    assert {right - left for left, _, right, _ in boxes} == {2, 3, 4, 5, 6}


def test_answers_are_spread_over_all_possible_ones():
    assert {item.answer for item in ITEMS if item.task == "where"} == {str(cell) for cell in range(1, 17)}
    assert {item.answer for item in ITEMS if item.task == "count"} == {"1", "2", "3", "4"}


def test_the_ground_alone_tells_which_image_misleads():
    """The lower quartile is ground: figures cover at most 36 of 64 squares."""
    for item in ITEMS:
        assert (np.quantile(item.visible, 0.25) < 60) == (item.light == "night")
        assert (np.quantile(item.infrared, 0.25) > 70) == (item.light == "day")


def test_a_misleading_image_is_noisier():
    noise = {source: {True: [], False: []} for source in SOURCES}
    for item in ITEMS:
        for source in SOURCES:
            pixels = getattr(item, source).reshape(SIDE, SIDE, -1)[:, :, 0].astype(float)
            steps = np.diff(pixels, axis=0)
            # Of two neighbours of one colour the difference has sqrt(2) times the noise; edges of figures are few.
            noise[source][item.seen_in(source) != item.answer].append(np.median(np.abs(steps)) / 0.6745 / sqrt(2))
    for of_source in noise.values():
        assert np.median(of_source[False]) == pytest.approx(4, abs=0.7)
        assert np.median(of_source[True]) == pytest.approx(8, abs=1.5)


def test_shares_of_lights_and_tasks():
    items = [make_item(1, "test", index) for index in range(1500)]
    for light, share in {"day": 0.4, "night": 0.4, "both": 0.2}.items():
        assert np.mean([item.light == light for item in items]) == pytest.approx(share, abs=0.06)
    for task in TASKS:
        assert np.mean([item.task == task for item in items]) == pytest.approx(1 / 3, abs=0.06)


def test_an_item_depends_on_its_seed_part_and_number_only():
    one, again = make_item(5, "train", 11), make_item(5, "train", 11)
    assert (one.task, one.answer, one.decoy, one.light) == (again.task, again.answer, again.decoy, again.light)
    assert np.array_equal(one.visible, again.visible)
    for other in (make_item(5, "train", 12), make_item(6, "train", 11), make_item(5, "test", 11)):
        assert not np.array_equal(one.visible, other.visible)


def test_items_have_no_largest_number():
    """The 200,001st of a part is none of its neighbours, nor one of another part."""
    late = [make_item(5, part, index).visible for part in ("train", "test") for index in (0, 100_000, 200_000)]
    assert len({pixels.tobytes() for pixels in late}) == 6


def test_one_task_can_be_chosen():
    assert {make_item(0, "train", index, ("count",)).task for index in range(30)} == {"count"}


@given(st.tuples(*[st.integers(0, 8)] * 8))
@examples(200)
def test_iou_counts_squares(numbers):
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in (numbers[:4], numbers[4:])]
    canvas = np.zeros((2, 9, 9), dtype=bool)
    for layer, (left, top, right, bottom) in zip(canvas, boxes, strict=True):
        layer[top:bottom, left:right] = True
    expected = (canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum()
    assert box_iou(*boxes) == pytest.approx(expected)


def test_same_arguments_same_bytes(written, tmp_path):
    write_benchmark(tmp_path / "again", seed=3, sizes=SIZES, teacher=NEUTRAL)
    write_benchmark(tmp_path / "other", seed=4, sizes=SIZES, teacher=NEUTRAL)
    first, again, other = digests(written), digests(tmp_path / "again"), digests(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_a_larger_set_begins_with_the_smaller_one(written, tmp_path):
    write_benchmark(tmp_path, seed=3, sizes=SetSizes(train=9, test=0, cold_start=0), teacher=NEUTRAL)
    small, large = digests(written / "train"), digests(tmp_path / "train")
    assert len(large) == 18
    assert small == {name: large[name] for name in small}
    assert not (tmp_path / "test.parquet").exists()


@pytest.mark.parametrize("part", ["train", "test"])
def test_rows_load_and_show_the_items(written, part):
    prompts = load(written, part)
    assert len(prompts) == getattr(SIZES, part)
    for index, prompt in enumerate(prompts):
        item = make_item(3, part, index)
        assert prompt.truth == item.answer
        assert prompt.data_source == f"benchmark_{item.task}"
        facts = {"id": f"{part}-{index:06d}", "task": item.task, "light": item.light, "split": part}
        assert {key: prompt.extra_info[key] for key in facts} == facts
        assert prompt.extra_info.get("decoy") == item.decoy
        assert [source.name for source in prompt.sources] == ["visible", "infrared"]
        for source in SOURCES:
            file = written / part / source / f"{index:06d}.png"
            assert np.array_equal(np.asarray(Image.open(file)), getattr(item, source))


def test_half_of_the_cold_start_shows_one_image_evenly(written):
    shown = [tuple(source.name for source in prompt.sources) for prompt in load(written, "cold_start")]
    assert shown.count(("visible", "infrared")) == 20
    assert shown.count(("visible",)) == shown.count(("infrared",)) == 10


def test_the_teacher_answers_from_the_image_it_names(written):
    for index, prompt in enumerate(load(written, "cold_start")):
        item = make_item(3, "cold_start", index)
        shown = [source.name for source in prompt.sources]
        assert prompt.response in [f"<think>{name}</think><answer>{item.seen_in(name)}</answer>" for name in shown]
        assert prompt.truth == item.answer


@pytest.mark.parametrize("dial", [0.0, 0.5, 0.95, 1.0])
def test_the_dial_is_the_share_of_the_visible_image_whatever_the_light(dial):
    named = {"day": [], "night": [], "both": []}
    for index, item in enumerate(ITEMS):
        text = teachers_response(item, SOURCES, Teacher(dial), np.random.default_rng(index))
        named[item.light].append("<think>visible</think>" in text)
    for light, visible in named.items():
        error = sqrt(dial * (1 - dial) / len(visible))
        assert np.mean(visible) == pytest.approx(dial, abs=4 * error), light


def test_a_teacher_that_does_not_name_its_source_answers_the_same():
    for index, item in enumerate(ITEMS[:50]):
        named, unnamed = (
            teachers_response(item, SOURCES, Teacher(0.5, names_source=names), np.random.default_rng(index))
            for names in (True, False)
        )
        believed = "visible" if "visible" in named else "infrared"
        assert named == response(believed, item.seen_in(believed))
        assert unnamed == response("looking", item.seen_in(believed))


@pytest.mark.parametrize("dial", [-0.1, 1.1, float("nan")])
def test_a_dial_that_is_no_probability_is_refused(tmp_path, dial):
    with pytest.raises(DataError, match="bias: not a probability"):
        write_benchmark(tmp_path, seed=0, sizes=SIZES, teacher=Teacher(dial))


def test_a_negative_size_is_refused(tmp_path):
    with pytest.raises(DataError, match="number of scenes: negative"):
        write_benchmark(tmp_path, seed=0, sizes=SetSizes(train=-1, test=0, cold_start=0), teacher=NEUTRAL)
