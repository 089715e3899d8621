import json
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars.cli.app import app
from mars.data.convert.llvip import LICENCE, QUESTION, LlvipOptions, llvip_set
from mars.errors import DataError
from tests.builders import load_prompts

SIZE = (40, 32)


def picture(folder, name, size=SIZE, mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(folder / name)


def voc(*boxes, size=SIZE, label="person"):
    objects = "".join(
        f"<object><name>{label}</name><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><folder>x</folder>{stated}{objects}</annotation>"


class Source:
    """A folder in LLVIP's layout."""

    def __init__(self, root):
        self.root = root
        self.xml("unrelated", voc((1, 1, 2, 2)))

    def xml(self, name, text, split=None):
        folder = self.root / "Annotations" / split if split else self.root / "Annotations"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.xml").write_text(text)

    def scene(
        self, name, text, split="train", annotation_split=None, suffix="jpg", modes=("RGB", "RGB"), sizes=(SIZE, SIZE)
    ):
        for source, mode, size in zip(("visible", "infrared"), modes, sizes, strict=True):
            picture(self.root / source / split, f"{name}.{suffix}", size, mode)
        if text is not None:
            self.xml(name, text, annotation_split)


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "src")


def rows(out, split="train"):
    return pq.read_table(out / f"{split}.parquet").to_pylist()


def truths(out, split="train"):
    return [
        [tuple(box["bbox_2d"]) for box in json.loads(row["reward_model"]["ground_truth"])] for row in rows(out, split)
    ]


def convert(source, out, splits=("train",)):
    return command(source, out, *(word for split in splits for word in ("--split", split)))


def command(source, out, *options):
    """The metadata that the command writes."""
    app(["data", "convert", "llvip", str(source.root), str(out), *map(str, options)], standalone_mode=False)
    return json.loads((out / "dataset.json").read_text())


def test_a_row_in_full(source, tmp_path):
    source.scene("010002", voc((1, 1, 40, 32), (5, 6, 7, 8)))
    source.scene("190001", voc((2, 2, 2, 2)), split="test")
    stored = convert(source, tmp_path / "out", ("train", "test"))
    (row,) = rows(tmp_path / "out")
    assert row["data_source"] == "llvip"
    assert row["prompt"] == [{"role": "user", "content": f"<image><image>\n{QUESTION}"}]
    assert row["images"] == [
        {"bytes": None, "path": "visible/train/010002.jpg"},
        {"bytes": None, "path": "infrared/train/010002.jpg"},
    ]
    # VOC counts from 1 with an inclusive end: (1, 1, 40, 32) is the whole of a 40x32 image.
    assert json.loads(row["reward_model"]["ground_truth"]) == [
        {"bbox_2d": [0, 0, 40, 32], "label": "person"},
        {"bbox_2d": [4, 5, 7, 8], "label": "person"},
    ]
    assert row["reward_model"]["style"] == "rule"
    assert row["extra_info"] == {
        "id": "010002",
        "index": 0,
        "split": "train",
        "sources": ["visible", "infrared"],
        "image_sizes": [list(SIZE)] * 2,
        "box_space": "original_pixels",
        "choices": None,
        "encodings": None,
    }
    assert truths(tmp_path / "out", "test") == [[(1, 1, 2, 2)]]
    assert stored["licence"] == LICENCE
    assert stored["converter"].startswith("llvip")
    assert stored["sources"] == ["visible", "infrared"]
    assert stored["splits"]["train"]["rows"] == 1
    assert stored["splits"]["train"]["boxes"] == 2


def test_what_is_written_is_read_back(source, tmp_path):
    source.scene("a", voc((3, 3, 9, 9)))
    convert(source, tmp_path / "out")
    loaded = load_prompts([str(tmp_path / "out" / "train.parquet")], str(source.root), "error", lambda prompt: None)
    (prompt,) = loaded.prompts
    assert [s.name for s in prompt.sources] == ["visible", "infrared"]
    assert [s.image.size for s in prompt.sources] == [SIZE, SIZE]


@pytest.mark.parametrize("below", ["", "src"])
def test_the_own_folder_resolves_images_below_it(source, tmp_path, below):
    source.scene("a", voc((3, 3, 9, 9)))
    out = source.root if below else source.root.parent
    metadata = convert(source, out)
    assert metadata["image_paths_relative_to"] == "this folder"
    loaded = load_prompts([str(out / "train.parquet")], None, "error", lambda prompt: None)
    assert loaded.prompts[0].sources[0].image.path == str(source.root / "visible" / "train" / "a.jpg")
    text = (out / "dataset.json").read_text() + json.dumps(rows(out))
    assert str(tmp_path) not in text


def test_variants_on_disk(source, tmp_path):
    source.scene("a", voc((1, 1, 4, 4)), annotation_split="train")
    source.scene("b", voc((1, 1, 4, 4), size=None), suffix="png", modes=("L", "L"))
    source.scene("c", voc((1, 1, 4, 4), size=(0, 0)), suffix="JPEG", modes=("RGB", "L"))
    source.scene("d", voc(("1.0", " 1.0 ", "4.5", "4"), label="Person"), suffix="bmp")
    source.scene("e", '<?xml version="1.0"?>\n' + voc((1, 1, 4, 4)))
    convert(source, tmp_path / "out")
    assert truths(tmp_path / "out") == [[(0, 0, 4, 4)]] * 3 + [[(0, 0, 4.5, 4)]] + [[(0, 0, 4, 4)]]


@pytest.mark.parametrize(
    "size",
    ["", "<size/>", "<size><width></width><height>32</height></size>", "<size><width>40</width></size>",
     "<size><width>40.0</width><height> 32 </height></size>", "<size><width>0</width><height>0</height></size>"],
)  # fmt: skip
def test_a_size_may_be_missing_in_part(source, tmp_path, size):
    source.scene("a", voc((1, 1, 4, 4), size=None).replace("<object>", f"{size}<object>", 1), suffix="PNG")
    convert(source, tmp_path / "out")
    assert truths(tmp_path / "out") == [[(0, 0, 4, 4)]]


def test_annotations_without_images_are_counted(source, tmp_path, capsys):
    source.scene("a", voc((1, 1, 4, 4)))
    source.scene("b", voc((1, 1, 4, 4)), split="test", annotation_split="test")
    source.xml("gone", voc((1, 1, 4, 4)), "test")
    metadata = command(source, tmp_path / "out")
    assert metadata["left_out"] == {"annotations_without_image": 2}  # "gone" and the fixture's "unrelated"
    assert "left out     2 annotations_without_image" in capsys.readouterr().out
    metadata = command(source, tmp_path / "out", "--split", "train")
    assert metadata["left_out"] == {"annotations_without_image": 1}


def test_a_split_that_only_one_source_has_is_not_passed_over(source, tmp_path):
    source.scene("a", voc((1, 1, 4, 4)))
    picture(source.root / "infrared" / "test", "b.jpg", mode="L")
    with pytest.raises(DataError, match=r"visible/test: no such folder"):
        command(source, tmp_path / "out")
    assert list(command(source, tmp_path / "out", "--split", "train")["splits"]) == ["train"]


def test_split_annotations_come_before_flat_ones(source, tmp_path):
    source.scene("a", voc((1, 1, 4, 4)))
    source.xml("a", voc((2, 2, 4, 4)), "train")
    convert(source, tmp_path / "out")
    assert truths(tmp_path / "out") == [[(1, 1, 4, 4)]]


def test_boxes_are_clipped_and_counted(source, tmp_path):
    source.scene("a", voc((0, -3, 50, 10), (1, 1, 40, 32)))
    metadata = convert(source, tmp_path / "out")
    assert truths(tmp_path / "out") == [[(0, 0, 40, 10), (0, 0, 40, 32)]]
    assert metadata["splits"]["train"]["boxes_clipped"] == 1


BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation><object><name>&b;</name></object></annotation>'
)
OUTSIDE_FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "missing_annotation"),
        (voc(), "no_person"),
        (voc((1, 1, 4, 4), label="car"), "no_person"),
        ("<annotation><object>", "annotation"),
        ("", "annotation"),
        ("<html><body>404</body></html>", "annotation"),
        (BILLION_LAUGHS, "annotation"),
        (OUTSIDE_FILE, "annotation"),
        (voc((1, 1, "nan", 4)), "annotation"),
        (voc((1, 1, "inf", 4)), "annotation"),
        (voc((1, 1, "four", 4)), "annotation"),
        (voc((1, 1, "", 4)), "annotation"),
        ("<annotation><object><name>person</name></object></annotation>", "annotation"),
        (voc((9, 1, 4, 4)), "box"),
        (voc((1, 1, 4, 4), (41, 1, 50, 4)), "box"),
        (voc((-9, -9, 0, 0)), "box"),
        (voc((1, 1, 4, 4), size=(80, 64)), "sizes_differ"),
    ],
)
def test_an_unusable_scene_is_left_out_and_listed(source, tmp_path, text, reason):
    source.scene("good", voc((1, 1, 4, 4)))
    source.scene("bad", text)
    metadata = convert(source, tmp_path / "out")
    assert metadata["splits"]["train"]["dropped"] == {reason: 1}
    assert metadata["splits"]["train"]["dropped_ids"] == {reason: ["bad"]}
    assert [row["extra_info"]["id"] for row in rows(tmp_path / "out")] == ["good"]


def test_unusable_images_are_left_out_and_listed(source, tmp_path):
    good = voc((1, 1, 4, 4))
    for name in ("a", "b", "c", "d", "e", "good"):
        source.scene(name, good)
    (source.root / "infrared" / "train" / "a.jpg").unlink()
    (source.root / "visible" / "train" / "b.jpg").unlink()
    (source.root / "visible" / "train" / "c.jpg").write_bytes(b"")
    data = (source.root / "infrared" / "train" / "d.jpg").read_bytes()
    (source.root / "infrared" / "train" / "d.jpg").write_bytes(data[: len(data) // 2])
    picture(source.root / "visible" / "train", "e.png")
    source.scene("f", good, sizes=(SIZE, (20, 16)))
    metadata = convert(source, tmp_path / "out")
    assert metadata["splits"]["train"]["dropped_ids"] == {
        "image_empty": ["c"],
        "image_undecodable": ["d"],
        "missing_infrared_image": ["a"],
        "missing_visible_image": ["b"],
        "several_visible_image": ["e"],
        "sizes_differ": ["f"],
    }
    assert metadata["splits"]["train"]["rows"] == 1


def test_the_same_twice_to_the_byte_and_in_order(source, tmp_path):
    for number in (7, 3, 11, 5):
        source.scene(f"{number:03}", voc((1, 1, number, 4)))
    for out in ("one", "two"):
        convert(source, tmp_path / out)
    for name in ("train.parquet", "dataset.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [row["extra_info"]["id"] for row in rows(tmp_path / "one")] == ["003", "005", "007", "011"]
    assert [row["extra_info"]["index"] for row in rows(tmp_path / "one")] == [0, 1, 2, 3]
    assert not list((tmp_path / "one").glob(".*"))


def test_options_of_the_command(source, tmp_path):
    source.scene("a", voc((1, 1, 4, 4)))
    source.scene("b", voc())
    source.scene("c", voc((1, 1, 4, 4), label="car"))
    metadata = command(source, tmp_path / "out", "--question", "Who?", "--licence", "CC0", "--keep-empty")
    assert rows(tmp_path / "out")[0]["prompt"][0]["content"] == "<image><image>\nWho?"
    assert truths(tmp_path / "out") == [[(0, 0, 4, 4)], [], []]
    assert (metadata["licence"], list(metadata["splits"])) == ("CC0", ["train"])
    assert metadata["splits"]["train"]["boxes_of_other_labels"] == 1
    with pytest.raises(DataError, match="<image>"):
        command(source, tmp_path / "out", "--question", "Who <image>?")
    with pytest.raises(DataError, match=r"test: no such folder"):
        command(source, tmp_path / "out", "--split", "test")
    assert list(command(source, tmp_path / "out", "--split", "train", "--limit", "1")["splits"]) == ["train"]


def test_several_sets_can_have_one_image_root(source, tmp_path):
    source.scene("a", voc((1, 1, 4, 4)))
    command(source, tmp_path / "out", "--image-root", tmp_path)
    assert rows(tmp_path / "out")[0]["images"][1]["path"] == "src/infrared/train/a.jpg"
    loaded = load_prompts([str(tmp_path / "out" / "train.parquet")], str(tmp_path), "error", lambda prompt: None)
    assert loaded.prompts[0].sources[1].image.path == str(source.root / "infrared" / "train" / "a.jpg")
    with pytest.raises(DataError, match=r"--image-root: does not contain"):
        llvip_set(source.root, tmp_path / "out", LlvipOptions())


def test_scenes_whose_names_are_no_text(source, tmp_path):
    for name in ("good", "a\nb", "x\udcff"):
        source.scene(name, voc((1, 1, 4, 4)))
    metadata = command(source, tmp_path / "out")
    assert metadata["splits"]["train"]["dropped_ids"] == {"image_path": [r"a\nb", r"x\udcff"]}
    with pytest.raises(DataError, match="--question: is not Unicode text"):
        command(source, tmp_path / "out", "--question", "Who\udcff?")


def test_all_missing_folders_come_at_once(source, tmp_path):
    picture(source.root / "infrared" / "train", "a.jpg")
    shutil.rmtree(source.root / "Annotations")
    with pytest.raises(DataError) as caught:
        command(source, tmp_path / "out")
    for name in ("visible/train: no such", "Annotations: no such", "give the folder that holds"):
        assert name in str(caught.value)
    with pytest.raises(DataError, match="nowhere: no such folder") as caught:
        llvip_set(tmp_path / "nowhere", None, LlvipOptions())
    assert "visible/train" not in str(caught.value)


def test_missing_folders_and_empty_splits(source, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        convert(source, tmp_path / "out")
    source.scene("a", voc())
    with pytest.raises(DataError, match=r"no usable item in split 'train'(.|\n)*no_person"):
        convert(source, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        convert(source, tmp_path / "out", ("train", "test"))
