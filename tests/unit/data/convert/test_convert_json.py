"""The converters of JSON sets, each on small sets in its public format, quirks included."""

from __future__ import annotations

import json
import shutil

import pytest

from mars.data.pixels.images import decode_image
from mars.errors import DataError, SetupError
from tests.builders import load_prompts
from tests.unit.data.convert.small_sets import SIZE, depth, evaluation, picture, run_convert, talk, views, write


@pytest.fixture
def convert(tmp_path, capsys):
    """(set, source, options) -> (rows of the files in order, metadata, text)."""

    def run(name, source, *options):
        rows, metadata = run_convert(tmp_path / "out", name, source, *options)
        return rows, metadata, capsys.readouterr().out

    return run


def text_of(row):
    (message,) = row["prompt"]
    assert message["role"] == "user"
    return message["content"]


# SpatialQA


def spatial(folder, number=2):
    records = []
    for i in range(number):
        picture(folder / "images" / f"{i}.jpg")
        depth(folder / "images_d" / f"{i}.png")
        question = f"<image 1>\n<image 2>\nIs there a cup {i}?"
        answer = ("Yes", "No, there is none.")[i % 2]
        pair = [f"images/{i}.jpg", f"images_d/{i}.png"]
        records.append({"id": f"s{i}", "image": pair, "conversations": talk(question, answer)})
    return records


def test_spatialqa_rows(tmp_path, convert):
    source = write(tmp_path / "src" / "train.json", spatial(tmp_path / "src"))
    rows, metadata, text = convert("spatialqa", source)
    assert text_of(rows[0]) == "<image><image>\nIs there a cup 0?"
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["Yes", "No"]
    info = rows[1]["extra_info"]
    assert (info["id"], info["index"], info["split"]) == ("s1", 1, "train")
    assert info["sources"] == ["rgb", "depth"]
    assert info["encodings"] == ["rgb", "depth_spatialbot"]
    assert info["image_sizes"] == [list(SIZE)] * 2
    assert metadata["data_source"] == "spatialqa"
    assert metadata["splits"]["train"]["rows"] == 2
    assert "2 rows" in text
    assert f"data.image_root={tmp_path / 'src'}" in text


@pytest.mark.parametrize(
    ("option", "pixel"),
    # 2500 mm: R = 4 * (2500 // 1024), G = 8 * (2500 // 32) mod 256, B = 8 * (2500 mod 32); a quarter of ten metres.
    [("spatialbot", (8, 112, 32)), ("clip", (64, 64, 64)), ("minmax", (0, 0, 0)), ("colormap", (48, 18, 59))],
)
def test_depth_is_declared_and_read_as_declared(tmp_path, convert, option, pixel):
    convert("spatialqa", write(tmp_path / "src" / "train.json", spatial(tmp_path / "src")), "--depth", option)
    (prompt, _) = load_prompts(
        [str(tmp_path / "out" / "train.parquet")], str(tmp_path / "src"), "error", lambda p: None
    ).prompts
    assert decode_image(prompt.sources[1].image).getpixel((3, 3)) == pixel


def test_depth_that_is_packed_already_is_an_image(tmp_path, convert):
    records = spatial(tmp_path / "src", 3)
    picture(tmp_path / "src" / "images_d" / "1.png")
    picture(tmp_path / "src" / "images_d" / "2.png", mode="L")
    rows, metadata, _ = convert("spatialqa", write(tmp_path / "src" / "train.json", records))
    assert [row["extra_info"]["encodings"] for row in rows] == [["rgb", "depth_spatialbot"], None, None]
    assert metadata["splits"]["train"]["eight_bit_depth"] == 2


def test_spatialbench_finds_its_depth(tmp_path, convert):
    for name, end in (("a", "jpg"), ("b", "jpeg")):
        picture(tmp_path / "src" / "existence" / f"{name}.{end}")
        depth(tmp_path / "src" / "existence_d" / f"{name}.png")
    questions = [
        {"image": "existence/a.jpg", "question": "Is there a dog?", "answer": "Yes"},
        {"image": "existence/a.jpg", "question": "Is there a cat?", "answer": "No"},
        {"image": "b.jpeg", "question": "How many dogs?", "answer": 3},
    ]
    source = write(tmp_path / "src" / "existence.json", questions)
    rows, metadata, _ = convert("spatialqa", source)
    assert [row["images"][1]["path"] for row in rows] == ["existence_d/a.png"] * 2
    assert metadata["splits"]["test"]["dropped"] == {"sources": 1}
    write(source, questions[2:])
    rows, _, _ = convert("spatialqa", source)
    assert [image["path"] for image in rows[0]["images"]] == ["existence/b.jpeg", "existence_d/b.png"]
    assert rows[0]["reward_model"]["ground_truth"] == "3"
    assert text_of(rows[0]) == "<image><image>\nHow many dogs?"


def test_tags_decide_the_order_and_turns_come_with_those_before(tmp_path, convert):
    (record, _) = spatial(tmp_path / "src")
    record["conversations"] = talk("<image 2> is the depth of <image 1>. A cup?", "Yes.", "And a plate?", "no")
    rows, metadata, _ = convert("spatialqa", write(tmp_path / "src" / "t.json", [record]))
    assert [row["extra_info"]["id"] for row in rows] == ["s0-1", "s0-2"]
    assert rows[0]["extra_info"]["sources"] == ["depth", "rgb"]
    assert [image["path"] for image in rows[0]["images"]] == ["images_d/0.png", "images/0.jpg"]
    assert text_of(rows[0]) == "<image>\nis the depth of <image>. A cup?"
    assert [turn["role"] for turn in rows[1]["prompt"]] == ["user", "assistant", "user"]
    assert rows[1]["prompt"][2]["content"] == "And a plate?"
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["Yes", "no"]
    assert metadata["sources"] == ["depth", "rgb"]


# nuScenes and OCR-VQA


def demon(folder, records, **metadata):
    given = {"task_instruction": ["Look closely.", "Answer."], "dataset": "d", "split": "train", **metadata}
    return write(folder / "full" / "full.json", {"metadata": given, "data": records})


def test_nuscenes_in_demons_form(tmp_path, convert):
    names = views(tmp_path / "src" / "full")
    tags = "".join(f"{{image#{i}}}" for i in range(1, 7))
    record = {
        "sample_id": 7,
        "task_instruction_id": 1,
        "task_instance": {"context": f"{tags} Question: how many trucks are there?", "images_path": names},
        "response": "three or 3",
    }
    demon(tmp_path / "src", [record])
    rows, metadata, _ = convert("nuscenes", tmp_path / "src")
    assert text_of(rows[0]) == "<image>" * 6 + "\nAnswer. Question: how many trucks are there?"
    assert rows[0]["extra_info"]["sources"] == [f"view_{i}" for i in range(1, 7)]
    assert rows[0]["reward_model"]["ground_truth"] == "three or 3"
    assert [image["path"] for image in rows[0]["images"]] == [f"full/images/{name}" for name in names]
    assert rows[0]["extra_info"]["id"] == "7"
    assert metadata["splits"].keys() == {"train"}


def test_nuscenes_in_m4_instructs_form(tmp_path, convert):
    views(tmp_path / "src", 6)
    record = {
        "sample_id": "n1",
        "conversations": talk("<image>" * 6 + "\nWhat colour is the bus?", "grey or silver"),
        "image": [f"nuscenes/full/images/{i}.jpg" for i in range(6)],
        "metadata": {"dataset": "nuscenes", "task_instruction": "You see six photographs.", "split": "train"},
    }
    rows, _, _ = convert("nuscenes", write(tmp_path / "src" / "m4.json", [record]))
    assert text_of(rows[0]) == "<image>" * 6 + "\nYou see six photographs. What colour is the bus?"
    assert rows[0]["images"][5]["path"] == "images/5.jpg"
    assert rows[0]["reward_model"]["ground_truth"] == "grey or silver"


COVERS = ["not the same", "Travel", "Health, Fitness & Dieting", "D. H. Lawrence"]
IN_TEXT = "Choice list : [A. not the same, B. Travel, C. Health, Fitness & Dieting, D. D. H. Lawrence]."


@pytest.mark.parametrize(
    ("context", "listed", "response", "truth"),
    [
        (f"{{image#1}}{{image#2}} Question: which? {IN_TEXT}", None, "B", "B"),
        (f"{{image#1}}{{image#2}} Question: which? {IN_TEXT}", COVERS, "Travel", "B"),
        ("{image#1}{image#2} Question: which?", COVERS, "Health, Fitness & Dieting", "C"),
        ("{image#1}{image#2} Question: which?", [f"{a}. {c}" for a, c in zip("ABCD", COVERS, strict=True)], "A", "A"),
        ("{image#1}{image#2} Question: which?", COVERS, "D. H. Lawrence", "D"),
    ],
)
def test_ocr_vqa_choices_in_the_text_or_beside_it(tmp_path, convert, context, listed, response, truth):
    names = views(tmp_path / "src" / "full", 2)
    task = {"context": context, "images_path": names, "choice_list": listed}
    demon(
        tmp_path / "src",
        [{"sample_id": 1, "task_instruction_id": 0, "task_instance": task, "response": response}],
    )
    rows, _, _ = convert("ocr_vqa", tmp_path / "src" / "full" / "full.json")
    assert text_of(rows[0]) == f"<image><image>\nLook closely. Question: which? {IN_TEXT}"
    assert rows[0]["extra_info"]["choices"] == COVERS
    assert rows[0]["extra_info"]["sources"] == ["cover_1", "cover_2"]
    assert rows[0]["reward_model"]["ground_truth"] == truth


# The evaluation files


@pytest.mark.parametrize("below", ["", "data/images", "data/images/LLVIP"])
def test_evaluation_files_of_llvip_wherever_the_images_are(tmp_path, convert, below):
    for source, mode in (("visible", "RGB"), ("infrared", "L")):
        picture(tmp_path / "data" / "images" / "LLVIP" / source / "test" / "1.jpg", mode)
    paths = [f"data/images/LLVIP/{source}/test/1.jpg" for source in ("visible", "infrared")]
    file = write(tmp_path / "in" / "llvip_eval.json", [evaluation(paths, "Detect.", [[1, 2, 40, 32], [3, 4, 5, 6]])])
    rows, metadata, _ = convert("eval_json", file, "--image-root", tmp_path / below)
    assert json.loads(rows[0]["reward_model"]["ground_truth"]) == [[1, 2, 40, 32], [3, 4, 5, 6]]
    assert rows[0]["extra_info"]["sources"] == ["visible", "infrared"]
    assert rows[0]["extra_info"]["box_space"] == "original_pixels"
    assert (metadata["data_source"], rows[0]["data_source"]) == ("llvip", "llvip")
    # The output lies beside the images: only the outermost root holds it.
    loaded = load_prompts(
        [str(tmp_path / "out" / "llvip_eval.parquet")], str(tmp_path / below), "error", lambda p: None
    )
    assert loaded.prompts[0].sources[1].image.size == SIZE


def test_evaluation_files_of_all_sets_in_one_folder(tmp_path, convert):
    root = tmp_path / "src"
    covers, cars = [f"ocr/{n}" for n in views(root / "ocr", 2)], [f"cars/{n}" for n in views(root / "cars", 6)]
    covers, cars = ([p.replace("/", "/images/") for p in paths] for paths in (covers, cars))
    picture(root / "q" / "existence" / "7.jpg")
    depth(root / "q" / "existence_d" / "7.png")
    pair = ["q/existence/7.jpg", "q/existence_d/7.png"]
    known = {"extra_info": {"sample_id": 12}}
    write(root / "OCR-VQA_eval.json", [evaluation(covers, f"Which? {IN_TEXT}", "D", **known)])
    write(root / "nuscenes_eval.json", [evaluation(cars, "How many?", "three or 3", **known)])
    write(root / "spatialqa_eval.json", [evaluation(pair, "A dog? End with Yes or No.", "Yes")])
    rows, metadata, _ = convert("eval_json", root)
    found = {row["data_source"]: row for row in rows}
    assert found.keys() == {"ocr_vqa", "nuscenes", "spatialqa"}
    assert found["ocr_vqa"]["extra_info"]["choices"] == COVERS
    assert found["ocr_vqa"]["extra_info"]["sources"] == ["cover_1", "cover_2"]
    assert found["ocr_vqa"]["extra_info"]["id"] == "12"
    assert found["nuscenes"]["extra_info"]["sources"] == [f"view_{i}" for i in range(1, 7)]
    assert found["spatialqa"]["extra_info"]["sources"] == ["rgb", "depth"]
    assert found["spatialqa"]["extra_info"]["encodings"] == ["rgb", "depth_spatialbot"]
    assert text_of(found["spatialqa"]) == "<image><image>\nA dog? End with Yes or No."
    assert len(metadata["splits"]) == 3


# Rows of other frameworks


def test_verl_easyr1_and_llava_lines(tmp_path, convert):
    views(tmp_path / "src", 3)
    lines = [
        {
            "data_source": "mine",
            "prompt": [{"role": "system", "content": "Hm."}, {"role": "user", "content": "<image>\n<image> Same?"}],
            "images": [{"path": "images/0.jpg"}, "images/1.jpg"],
            "reward_model": {"style": "rule", "ground_truth": "<answer> no </answer>"},
            "extra_info": {"id": 4, "sources": ["left", "right"], "answer": "kept by verl, not read here"},
        },
        {"problem": "<image>What is it?", "answer": "a bus", "images": ["images/2.jpg"]},
        {"id": "l", "image": "images/2.jpg", "conversations": talk("<image>\nWhich colour?", "red")},
        {"problem": "How much is 2 + 2?", "answer": "B", "extra_info": {"choices": {"A": "3", "B": "4"}}},
        {"problem": "<image>Where?", "answer": [[1, 2, 3, 4]], "images": ["images/2.jpg"], "response": "There."},
    ]  # fmt: skip
    rows, metadata, _ = convert("jsonl", write(tmp_path / "src" / "own.jsonl", lines))
    assert [row["data_source"] for row in rows] == ["mine", "own", "own", "own", "own"]
    assert rows[0]["prompt"] == lines[0]["prompt"]
    assert rows[0]["reward_model"]["ground_truth"] == "no"
    assert rows[0]["extra_info"]["sources"] == ["left", "right"]
    assert (rows[0]["extra_info"]["id"], rows[2]["extra_info"]["id"]) == ("4", "l")
    assert rows[3]["images"] == []
    assert rows[3]["extra_info"]["choices"] == ["3", "4"]
    assert rows[4]["response"] == "There."
    assert metadata["splits"]["own"]["dropped"] == {}
    loaded = load_prompts([str(tmp_path / "out" / "own.parquet")], str(tmp_path / "src"), "error", lambda p: None)
    assert [len(prompt.sources) for prompt in loaded.prompts] == [2, 1, 1, 0, 1]


def test_a_number_becomes_a_text_and_an_empty_cell_of_a_table_no_truth(tmp_path, convert):
    """pandas writes an empty cell as NaN."""
    answers = [3, 0.5, float("nan"), float("inf"), -float("inf"), "nan"]
    lines = [{"problem": f"Question {number}?", "answer": answer} for number, answer in enumerate(answers)]
    rows, metadata, _ = convert("jsonl", write(tmp_path / "src" / "own.jsonl", lines))
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["3", "0.5", "nan"]
    dropped = metadata["splits"]["own"]["dropped_ids"]
    assert dropped == {"truth": [f"own.jsonl:{number}" for number in (2, 3, 4)]}


# What is wrong with rows and files

BAD = [
    (lambda r: r.update(image=r["image"][:1]), "image_missing"),  # the depth that SpatialBench would have beside it
    (lambda r: r.update(image=["images/9.jpg", "images_d/0.png"]), "image_missing"),
    (lambda r: r.update(image=["../images/0.jpg", "images_d/0.png"]), "image_path"),
    (lambda r: r.update(image=["/etc/passwd", "images_d/0.png"]), "image_path"),
    (lambda r: r.update(image=["http://x.org/1.jpg", "images_d/0.png"]), "image_path"),
    (lambda r: r.update(image=[7, "images_d/0.png"]), "image_missing"),
    (lambda r: r.update(conversations=talk("<image 1>\nA cup?", "Yes")), "sources"),
    (lambda r: r.update(conversations=talk("<image 1><image 1>\nA cup?", "Yes")), "sources"),
    (lambda r: r.update(conversations=talk("<image 1><image>\nA cup?", "Yes")), "sources"),
    (lambda r: r.update(conversations=talk("<image><image><image>\nA cup?", "Yes")), "sources"),
    (lambda r: r.update(conversations=talk("<image 1><image 2>\n<|im_end|>?", "Yes")), "special_token"),
    (lambda r: r.update(conversations=talk("<image 1><image 2>\nA cup?", " ")), "truth"),
    (lambda r: r.update(conversations=talk("<image 1><image 2>\nA cup?", "yes or no")), "truth"),
    (lambda r: r.update(conversations=talk("<image 1><image 2>\nA cup?")), "prompt"),
    (lambda r: r.update(conversations="Yes"), "prompt"),
    (lambda r: r.update(conversations=talk("<image 1><image 2>\nA \ud800 cup?", "Yes")), "json"),
    (lambda r: r.update(choice_list=["x", None]), "choices"),
    (lambda r: r.update(choice_list=["Law", "Travel"]), "truth"),
    (lambda r: r.update(id=["list"], image="images/0.jpg\n"), "image_path"),
    (lambda r: r.update(conversations=[]), "prompt"),
    (lambda r: r.pop("conversations"), "prompt"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_record_is_left_out_and_listed_or_refused(tmp_path, convert, number):
    change, reason = BAD[number]
    (tmp_path / "src" / "images" / "no_d").mkdir(parents=True)
    good, bad = spatial(tmp_path / "src")
    if reason == "image_missing" and number == 0:
        (tmp_path / "src" / "images_d" / "1.png").unlink()
    change(bad)
    source = write(tmp_path / "src" / "train.json", [good, bad])
    rows, metadata, text = convert("spatialqa", source)
    assert [row["extra_info"]["id"] for row in rows] == ["s0"]
    assert metadata["splits"]["train"]["dropped_ids"] == {reason: ["train.json:1"]}
    assert f"{reason}" in text
    assert "train.json:1" in text
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    with pytest.raises(DataError, match=rf"1 of 2 rows(.|\n)*train\.json:1 +{reason} ") as caught:
        convert("spatialqa", source, "--on-bad-sample", "error")
    assert caught.value.exit_code == 3
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before
    assert not [path for path in (tmp_path / "out").glob(".*") if path.name.startswith(".tmp")]


def test_all_problems_come_in_one_table(tmp_path, convert):
    records = spatial(tmp_path / "src", 4)
    records[1] = "text"
    records[2]["image"][0] = "images/none.jpg"
    records[3]["conversations"] = talk("<image 1><image 2>?", "")
    with pytest.raises(DataError) as caught:
        convert("spatialqa", write(tmp_path / "src" / "t.json", records), "--on-bad-sample", "error")
    for fragment in ("3 of 4", "t.json:1", "t.json:2", "t.json:3", "json 1", "image_missing 1", "truth 1"):
        assert fragment in str(caught.value)
    with pytest.raises(DataError, match="no usable item in split 'train'"):
        convert("spatialqa", write(tmp_path / "src" / "u.json", records[1:]))


@pytest.mark.parametrize(
    ("name", "text", "fragment"),
    [
        ("a.json", "[{", "cannot be read as JSON"),
        ("a.json", "", "cannot be read as JSON"),
        ("a.json", "7", "neither a list"),
        ("a.json", "[]", "has no records"),
        ("a.json", "[" * 100_000, "cannot be read as JSON"),
        ("a.json", b"\xff\xfe", "cannot be read as JSON"),
        ("a.txt", "[]", "no .json or .jsonl file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, convert, name, text, fragment):
    path = tmp_path / "src" / name
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for source in (path, path.parent):
        with pytest.raises(DataError, match=fragment):
            convert("jsonl", source)
    with pytest.raises(DataError, match="no such folder"):
        convert("jsonl", path, "--image-root", tmp_path / "nowhere")


def test_a_bom_and_lines_under_the_name_of_a_list(tmp_path, convert):
    records = spatial(tmp_path / "src")
    path = tmp_path / "src" / "train.json"
    path.write_text("\ufeff" + "\n".join(map(json.dumps, records)) + "\n\n{broken", encoding="utf-8")
    rows, metadata, _ = convert("spatialqa", path)
    assert len(rows) == 2
    assert metadata["splits"]["train"]["dropped"] == {"json": 1}


def test_repeated_ids_are_told_apart_and_repeated_rows_left_out(tmp_path, convert):
    one, two = spatial(tmp_path / "src")
    two["id"] = "s0"
    rows, metadata, _ = convert("spatialqa", write(tmp_path / "src" / "t.json", [one, two, one]))
    assert [row["extra_info"]["id"] for row in rows] == ["s0", "s0.2"]
    assert metadata["splits"]["train"]["dropped"] == {"duplicate": 1}


def test_splits_are_called_train_and_test(tmp_path, convert):
    records = spatial(tmp_path / "src")
    for name in ("spatialqa.json", "SpatialQA-val.json"):
        write(tmp_path / "src" / name, records)
    rows, metadata, _ = convert("spatialqa", tmp_path / "src")
    assert list(metadata["splits"]) == ["test", "train"]
    assert [row["extra_info"]["split"] for row in rows] == ["test", "test", "train", "train"]
    write(tmp_path / "src" / "more.json", records[:1])
    shutil.rmtree(tmp_path / "out")
    assert list(convert("spatialqa", tmp_path / "src")[1]["splits"]) == ["test", "more", "spatialqa"]
    demon(tmp_path / "demon", [], split="test")
    views(tmp_path / "demon" / "full", 1)
    task = {"context": "{image#1} How many?", "images_path": ["0.jpg"]}
    demon(tmp_path / "demon", [{"sample_id": 1, "task_instance": task, "response": "3"}], split="test")
    assert list(convert("nuscenes", tmp_path / "demon")[1]["splits"]) == ["test"]


def test_sets_converted_one_after_the_other_share_their_metadata(tmp_path, convert):
    """Splits of the same set stay in the metadata for as long as their rows are there; the same split is replaced."""
    for split, number in (("train", 2), ("test", 3)):
        records = spatial(tmp_path / split, number)
        convert("spatialqa", write(tmp_path / split / f"{split}.json", records), "--image-root", str(tmp_path / split))
    _, metadata, text = convert("spatialqa", tmp_path / "test" / "test.json")
    assert {name: split["rows"] for name, split in metadata["splits"].items()} == {"train": 2, "test": 3}
    assert "2 rows" not in text  # what this call did
    (tmp_path / "out" / "train.parquet").unlink()
    _, metadata, _ = convert("spatialqa", tmp_path / "test" / "test.json")
    assert list(metadata["splits"]) == ["test"]


@pytest.mark.parametrize("text", ["{", "[]", '{"splits": {}}', "\udcff", "[" * 100_000])
def test_another_file_of_that_name_is_left_alone(tmp_path, convert, text):
    source = write(tmp_path / "src" / "train.json", spatial(tmp_path / "src"))
    metadata = tmp_path / "out" / "dataset.json"
    metadata.parent.mkdir()
    metadata.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"dataset\.json: .*metadata.*another folder"):
        convert("spatialqa", source)
    assert [path.name for path in metadata.parent.iterdir()] == [metadata.name]
    assert metadata.read_bytes() == text.encode(errors="surrogateescape")


def test_limit_dry_run_and_the_same_bytes_twice(tmp_path, convert):
    records = spatial(tmp_path / "src", 5)
    records[1]["image"] = ["images/none.jpg", "images_d/1.png"]
    source = write(tmp_path / "src" / "t.json", records)
    rows, metadata, text = convert("spatialqa", source, "--limit", "2", "--dry-run", "--licence", "CC0")
    assert (rows, metadata) == ([], None)
    assert "2 rows" in text
    assert "dry run" in text
    assert not (tmp_path / "out").exists()
    rows, metadata, _ = convert("spatialqa", source, "--limit", "2", "--licence", "CC0")
    assert [row["extra_info"]["id"] for row in rows] == ["s0", "s2"]
    assert metadata["licence"] == "CC0"
    convert("spatialqa", source)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    convert("spatialqa", source)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert first.keys() == {"train.parquet", "dataset.json"}


def test_a_failed_conversion_leaves_the_earlier_metadata(tmp_path, convert, monkeypatch):
    source = write(tmp_path / "src" / "t.json", spatial(tmp_path / "src", 3))
    from mars.data.convert import write as writing

    convert("spatialqa", source)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_metadata", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(SetupError, match="out: cannot be written: disk full"):
            convert("spatialqa", source)
    assert expected == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_the_reader_takes_public_json_files_as_they_are(tmp_path):
    """Evaluation files, SpatialQA and DEMON without conversion, images below the root or beside the file."""
    picture(tmp_path / "data" / "LLVIP" / "visible" / "1.jpg")
    picture(tmp_path / "data" / "LLVIP" / "infrared" / "1.jpg", "L")
    paths = [f"data/LLVIP/{source}/1.jpg" for source in ("visible", "infrared")]
    good, bad = evaluation(paths, "Detect.", [[1, 2, 40, 32]]), evaluation(paths[:1], "Two? <image>", "x")
    one = str(write(tmp_path / "llvip_eval.json", [good, bad]))
    two = str(write(tmp_path / "src" / "train.json", spatial(tmp_path / "src")))
    with pytest.raises(DataError, match=r"llvip_eval\.json:1 +sources +the text mixes image tags"):
        load_prompts([one], None, "error", lambda p: None)
    for root in (None, str(tmp_path / "data" / "LLVIP")):
        (prompt,) = load_prompts([one], root, "drop", lambda p: None).prompts
        assert prompt.data_source == "llvip"
        assert [source.name for source in prompt.sources] == ["visible", "infrared"]
        assert json.loads(prompt.truth) == [[1, 2, 40, 32]]
    prompts = load_prompts([two], None, "error", lambda p: None).prompts
    assert [source.image.encoding for source in prompts[0].sources] == ["rgb", "depth_spatialbot"]
    for text in ("[{", "[]", "7"):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(DataError, match=r"broken\.json: cannot be read as json"):
            load_prompts([str(tmp_path / "broken.json")], None, "drop", lambda p: None)
