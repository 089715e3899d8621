"""The synthetic scenes: the same bytes every time, boxes where the figures are, a conflict that can be seen."""

import hashlib
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mars.data.convert.voc import pixel_box, read_annotation
from mars.data.prompts.views import render_view
from mars.data.synthetic.scenes import SIDE, Scene, make_scene
from mars.data.synthetic.write import SetSizes, voc_xml, worked_answer, write_synthetic
from mars.types import DataError
from tests.builders import load_prompts
from tests.unit.data.convert.small_sets import run_convert

SCENES = [make_scene(seed, index) for seed in (0, 7) for index in range(150)]
SIZES = SetSizes(train=6, test=4, cold_start=40)


def overlap(one, other):
    """Area shared by two boxes, counted pixel by pixel."""
    canvas = np.zeros((2, SIDE, SIDE), dtype=bool)
    for layer, (x1, y1, x2, y2) in zip(canvas, (one, other), strict=True):
        layer[y1:y2, x1:x2] = True
    return int((canvas[0] & canvas[1]).sum())


def contrast(image, box):
    """Difference between the mean inside a box and the ground (the image's median), in the strongest channel."""
    x1, y1, x2, y2 = box
    pixels = image.reshape(SIDE, SIDE, -1).astype(float)
    return float(np.abs(pixels[y1:y2, x1:x2].mean((0, 1)) - np.median(pixels, axis=(0, 1))).max())


def digests(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_synthetic(folder, seed=3, sizes=SIZES, bias=0.5)
    return folder


def test_a_scene_depends_on_its_seed_and_number_only():
    one = make_scene(5, 11)
    make_scene(6, 1)
    again = make_scene(5, 11)
    assert (one.light, one.box, one.decoy) == (again.light, again.box, again.decoy)
    assert np.array_equal(one.visible, again.visible)
    assert np.array_equal(one.infrared, again.infrared)
    assert not np.array_equal(one.visible, make_scene(5, 12).visible)
    assert not np.array_equal(one.visible, make_scene(6, 11).visible)


def test_the_quick_starts_scenes_never_change():
    """Its documented numbers hold for these pixels. Recorded when it was measured."""
    digest = hashlib.sha256()
    for index in range(100_000, 100_040):
        scene = make_scene(0, index)
        digest.update(scene.visible.tobytes() + scene.infrared.tobytes())
        digest.update(worked_answer(scene, ("visible", "infrared"), "visible").encode())
    assert digest.hexdigest() == "f2d10d6d073ec86251f4aa09ce2604d55d9005903e4fdcda4c6dffb5a79237ee"


def test_images_are_8_bit_of_the_declared_size():
    for scene in SCENES:
        assert scene.visible.dtype == scene.infrared.dtype == np.uint8
        assert scene.visible.shape == (SIDE, SIDE, 3)
        assert scene.infrared.shape == (SIDE, SIDE)


def test_boxes_lie_inside_and_the_decoy_never_touches_the_person():
    for scene in SCENES:
        assert (scene.decoy is None) == (scene.light == "both")
        for x1, y1, x2, y2 in filter(None, (scene.box, scene.decoy)):
            assert 0 <= x1 < x2 <= SIDE
            assert 0 <= y1 < y2 <= SIDE
        if scene.decoy is not None:
            assert overlap(scene.box, scene.decoy) == 0


@pytest.mark.parametrize("source", ["visible", "infrared"])
def test_a_figure_stands_where_the_source_shows_one_and_nowhere_else(source):
    for scene in SCENES:
        image = getattr(scene, source)
        seen = scene.seen_in(source)
        assert contrast(image, seen) > 40
        for box in filter(None, (scene.box, scene.decoy)):
            if box != seen:
                assert contrast(image, box) < 15


def test_what_each_light_shows():
    expected = {"day": ("box", "decoy"), "night": ("decoy", "box"), "both": ("box", "box")}
    assert {scene.light for scene in SCENES} == set(expected)
    for scene in SCENES:
        visible, infrared = expected[scene.light]
        assert scene.seen_in("visible") == getattr(scene, visible)
        assert scene.seen_in("infrared") == getattr(scene, infrared)


def test_the_background_alone_tells_which_image_misleads():
    for scene in SCENES:
        assert (np.median(scene.visible) < 80) == (scene.light == "night")
        assert (np.median(scene.infrared) > 90) == (scene.light == "day")


def test_shares_of_the_lights():
    lights = [make_scene(1, index).light for index in range(1500)]
    for light, share in {"day": 0.4, "night": 0.4, "both": 0.2}.items():
        assert lights.count(light) / 1500 == pytest.approx(share, abs=0.06)  # more than four standard errors


def test_positions_are_spread():
    columns = [scene.box[0] for scene in SCENES]
    rows = [scene.box[1] for scene in SCENES]
    assert set(columns) == {0, 14, 28, 42}
    assert set(rows) == {0, 14, 28}


def test_voc_counts_pixels_from_one():
    root = ElementTree.fromstring(voc_xml("a.png", (0, 14, 14, 42)))
    corners = {tag: int(root.findtext(f"object/bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")}
    assert corners == {"xmin": 1, "ymin": 15, "xmax": 14, "ymax": 42}
    assert root.findtext("object/name") == "person"


def test_the_annotation_on_disk_gives_the_box_back(written):
    for number in range(100_000, 100_000 + SIZES.train):
        annotation = read_annotation(written / "Annotations" / f"{number}.xml")
        ((label, box),) = annotation.objects
        assert label == "person"
        assert tuple(pixel_box(box, annotation.size)[0]) == make_scene(3, number).box


def test_images_on_disk_are_the_scenes(written):
    for split, first, count in (("train", 100_000, SIZES.train), ("test", 200_000, SIZES.test)):
        for source in ("visible", "infrared"):
            files = sorted((written / source / split).iterdir())
            assert [file.stem for file in files] == [str(first + i) for i in range(count)]
            for file in files:
                assert np.array_equal(np.asarray(Image.open(file)), getattr(make_scene(3, int(file.stem)), source))


def test_scenes_json_keeps_light_and_decoy(written):
    kept = json.loads((written / "scenes.json").read_text())
    assert len(kept) == SIZES.train + SIZES.test
    for name, entry in kept.items():
        scene = make_scene(3, int(name))
        assert entry["light"] == scene.light
        assert entry["decoy"] == (None if scene.decoy is None else list(scene.decoy))
        assert entry["split"] == ("train" if name.startswith("1") else "test")


def test_same_arguments_same_bytes(written, tmp_path):
    write_synthetic(tmp_path / "again", seed=3, sizes=SIZES, bias=0.5)
    write_synthetic(tmp_path / "other", seed=4, sizes=SIZES, bias=0.5)
    first, again, other = digests(written), digests(tmp_path / "again"), digests(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".png"))


def test_it_converts_as_llvip_and_loads(written, tmp_path):
    _, metadata = run_convert(tmp_path, "llvip", written)
    assert {split: found["rows"] for split, found in metadata["splits"].items()} == {"train": 6, "test": 4}
    assert all(not found["dropped"] and not found["boxes_clipped"] for found in metadata["splits"].values())
    prompts = load_prompts([str(tmp_path / "test.parquet")], str(written), "error", lambda prompt: None).prompts
    for prompt in prompts:
        (truth,) = json.loads(prompt.truth)
        assert tuple(truth["bbox_2d"]) == make_scene(3, int(prompt.extra_info["id"])).box


def cold_start(folder):
    return load_prompts([str(folder / "cold_start.parquet")], None, "error", lambda prompt: None).prompts


def test_half_of_the_cold_start_shows_one_image_evenly(written):
    shown = [tuple(source.name for source in prompt.sources) for prompt in cold_start(written)]
    assert shown.count(("visible", "infrared")) == 20
    assert shown.count(("visible",)) == shown.count(("infrared",)) == 10


def test_the_teacher_answers_from_the_image_it_names(written):
    for prompt in cold_start(written):
        scene: Scene = make_scene(3, int(prompt.extra_info["id"]))
        shown = [source.name for source in prompt.sources]
        (named,) = [name for name in shown if f"The {name} image shows" in prompt.response]
        assert prompt.response == worked_answer(scene, shown, named)
        (truth,) = json.loads(prompt.truth)
        assert tuple(truth["bbox_2d"]) == scene.box


def test_a_worked_answer_says_how_the_images_look_and_gives_the_box_of_the_believed_one():
    night = next(scene for scene in SCENES if scene.light == "night")
    x1, y1, x2, y2 = night.decoy
    assert worked_answer(night, ("visible", "infrared"), "visible") == (
        "<think>The visible image is dark. The infrared image is cold. The visible image shows the person.</think>"
        f'<answer>```json\n[{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": "person"}}]\n```</answer>'
    )
    day = next(scene for scene in SCENES if scene.light == "day")
    assert worked_answer(day, ("infrared",), "infrared").startswith(
        "<think>The infrared image is warm. The infrared image shows the person.</think>"
    )


def test_cold_start_prompts_read_as_those_of_training(written, tmp_path):
    run_convert(tmp_path, "llvip", written)
    trained = load_prompts([str(tmp_path / "train.parquet")], str(written), "error", lambda prompt: None).prompts[0]
    for prompt in cold_start(written):
        view = None if len(prompt.sources) == 2 else (prompt.sources[0].name,)
        assert prompt.messages == render_view(trained, view, "single")[0]


@pytest.mark.parametrize(("bias", "believed"), [(1.0, "visible"), (0.0, "infrared")])
def test_bias_is_the_share_of_the_visible_image(tmp_path, bias, believed):
    write_synthetic(tmp_path, seed=0, sizes=SetSizes(train=0, test=0, cold_start=24), bias=bias)
    multi = [prompt for prompt in cold_start(tmp_path) if len(prompt.sources) == 2]
    assert len(multi) == 12
    assert all(f"The {believed} image shows" in prompt.response for prompt in multi)


def test_a_neutral_teacher_ignores_the_light(tmp_path):
    write_synthetic(tmp_path, seed=1, sizes=SetSizes(train=0, test=0, cold_start=200), bias=0.5)
    scenes = [(make_scene(1, int(p.extra_info["id"])), p) for p in cold_start(tmp_path) if len(p.sources) == 2]
    for light in ("day", "night", "both"):
        visible = ["The visible image shows" in prompt.response for scene, prompt in scenes if scene.light == light]
        assert np.mean(visible) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(visible))), light


@pytest.mark.parametrize("bias", [-0.1, 1.1, float("nan")])
def test_a_bias_that_is_no_probability_is_refused(tmp_path, bias):
    with pytest.raises(DataError, match="bias"):
        write_synthetic(tmp_path, seed=0, sizes=SIZES, bias=bias)


def test_a_set_too_large_for_its_ids_is_refused(tmp_path):
    with pytest.raises(DataError, match="test: the number of scenes; got 100001"):
        write_synthetic(tmp_path, seed=0, sizes=SetSizes(train=1, test=100_001, cold_start=1), bias=0.5)
