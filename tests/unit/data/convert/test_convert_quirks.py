"""What public files do besides what their papers say: order, splits, tags, truths and paths of every kind."""

from __future__ import annotations

import errno
import json

import pytest

from mars.data.convert.spatialqa import sources, yes_or_no
from mars.errors import DataError, SetupError
from tests.unit.data.convert.small_sets import depth, evaluation, picture, run_convert, talk, views, write


@pytest.fixture
def convert(tmp_path):
    return lambda name, source, *options: run_convert(tmp_path / "out", name, source, *options)


@pytest.fixture
def pair(tmp_path):
    """Paths of a photograph and its depth below tmp_path/src."""
    picture(tmp_path / "src" / "images" / "0.jpg")
    depth(tmp_path / "src" / "images_d" / "0.png")
    return ["images/0.jpg", "images_d/0.png"]


@pytest.fixture
def spectra(tmp_path):
    """Paths of a visible and an infrared image below tmp_path/src."""
    for source, mode in (("visible", "RGB"), ("infrared", "L")):
        picture(tmp_path / "src" / source / "test" / "1.jpg", mode)
    return ["visible/test/1.jpg", "infrared/test/1.jpg"]


def truth(row):
    return row["reward_model"]["ground_truth"]


def texts(row):
    return [(message["role"], message["content"]) for message in row["prompt"]]


# SpatialQA


def test_depth_that_is_listed_first_is_still_depth(tmp_path, convert, pair):
    records = [{"id": "a", "image": pair[::-1], "conversations": talk("<image 1>\n<image 2>\nA cup?", "Yes")}]
    rows, _ = convert("spatialqa", write(tmp_path / "src" / "t.json", records))
    assert rows[0]["extra_info"]["sources"] == ["depth", "rgb"]
    assert rows[0]["extra_info"]["encodings"] == ["depth_spatialbot", "rgb"]
    rows, _ = convert("eval_json", write(tmp_path / "src" / "t.json", [evaluation(pair[::-1], "A cup?", "Yes")]))
    assert rows[0]["extra_info"]["sources"] == ["depth", "rgb"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/1.jpg", "a_d/1.png"], ("rgb", "depth")),
        (["a_d/1.png", "a/1.jpg"], ("depth", "rgb")),
        (["my_depths_d/a/1.jpg", "my_depths_d/a_d/1.png"], ("rgb", "depth")),
        (["x/depth/1.png", "x/color/1.jpg"], ("depth", "rgb")),
        (["1.jpg", "2.png"], ("rgb", "depth")),
        (["a/1.jpg"], ("rgb",)),
        (["a_d/1.jpg"], ("depth",)),
        (["a/1.jpg", "a/2.jpg", "a/3.jpg"], ("view_1", "view_2", "view_3")),
    ],
)
def test_which_image_is_the_depth(paths, names):
    assert sources(paths) == names


@pytest.mark.parametrize("image", ["images/0.jpg", ["images/0.jpg"]])
def test_a_photograph_alone(tmp_path, convert, pair, image):
    """One tag: one image. Without tags, as in SpatialBench, its depth is found."""
    records = [
        {"id": "one", "image": image, "conversations": talk("<image 1>\nA cup?", "Yes")},
        {"id": "two", "image": image, "conversations": talk("A cup?", "Yes")},
        {"image": image, "question": "Which? (A) cup (B) plate", "answer": "plate"},
        {"image": image, "question": "Which?", "options": ["cup", "plate"], "answer": "plate"},
    ]
    rows, _ = convert("spatialqa", write(tmp_path / "src" / "t.json", records))
    assert [row["extra_info"]["sources"] for row in rows] == [["rgb"]] + [["rgb", "depth"]] * 3
    assert [(truth(row), row["extra_info"]["choices"]) for row in rows[2:]] == [("B", ["cup", "plate"])] * 2
    assert texts(rows[3])[0][1].endswith("Which? Choice list : [A. cup, B. plate].")


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Yes", "Yes"), ("yes.", "yes"), ("NO!", "NO"), ("Yes, on the left.", "Yes"), ("No: none.", "No"),
        ("Yes there is a cup.", "Yes"), ("Yes - two", "Yes"), ("No there is not.", "No"), ("No, there isn't.", "No"),
        ("No the cup is red", "No"), ("No it is not", "No"), ("The answer is no.", "no"), ('Answer: "Yes"', "Yes"),
        ("No\nThere is none.", "No"),
    ],
)  # fmt: skip
def test_sentences_that_say_yes_or_no(answer, word):
    assert yes_or_no(answer) == word


@pytest.mark.parametrize(
    "answer",
    ["No one.", "No cups are there.", "No more than two", "yes or no", "Yes and no", "yes/no", "no or yes", "Yesterday",
     "None", "Nobody", "North", "2.5 m", "The cup, yes", "Is the answer yes", "", 3, None],
)  # fmt: skip
def test_sentences_that_do_not(answer):
    assert yes_or_no(answer) == answer


def test_a_system_turn_holds_no_image(tmp_path, convert, pair):
    turns = [{"from": "system", "value": "Look."}, *talk("A cup?", "Yes")]
    records = [{"id": "a", "image": pair, "conversations": turns}]
    rows, _ = convert("spatialqa", write(tmp_path / "src" / "t.json", records))
    assert texts(rows[0]) == [("system", "Look."), ("user", "<image><image>\nA cup?")]
    messages = [{"role": "system", "content": "Look."}, {"role": "user", "content": "A cup?"}]
    line = {"prompt": messages, "images": pair[:1], "answer": "yes"}
    rows, _ = convert("jsonl", write(tmp_path / "src" / "t.json", [line]))
    assert texts(rows[0]) == [("system", "Look."), ("user", "<image>\nA cup?")]


def test_a_question_without_an_answer_is_counted(tmp_path, convert, pair):
    records = [{"id": "a", "image": pair, "conversations": talk("A cup?", "Yes", "And a plate?", "No", "A fork?")}]
    rows, metadata = convert("spatialqa", write(tmp_path / "src" / "t.json", records))
    assert [row["extra_info"]["id"] for row in rows] == ["a-1", "a-2"]
    assert metadata["splits"]["train"]["dropped_ids"] == {"prompt": ["t.json:0, question 3"]}


# DEMON and M4-Instruct


def demon_record(number, names, context="Question: who?", **fields):
    tags = "".join(f"{{image#{i + 1}}}" for i in range(len(names)))
    task = {"context": f"{tags} {context}", "images_path": names}
    task |= {key: fields.pop(key) for key in ("choice_list", "images_path") if key in fields}
    return {"sample_id": number, "task_instruction_id": 0, "task_instance": task, "response": "a car"} | fields


@pytest.mark.parametrize("metadata", [None, {}, {"split": "train"}])
def test_instructions_that_the_file_does_not_have_are_counted(tmp_path, convert, metadata):
    names = views(tmp_path / "src")
    source = tmp_path / "src" / "full.json"
    write(source, {"data": [demon_record(1, names)], **({} if metadata is None else {"metadata": metadata})})
    rows, metadata = convert("nuscenes", source)
    assert texts(rows[0])[0][1].endswith("<image>\nQuestion: who?")
    assert metadata["splits"]["train"]["without_task_instruction"] == 1
    write(source, {"data": [demon_record(i, names, task_instruction_id=k) for i, k in enumerate(["1", 2])],
                   "metadata": {"task_instruction": ["No.", "Look."]}})  # fmt: skip
    rows, metadata = convert("nuscenes", source)
    assert texts(rows[0])[0][1].endswith("\nLook. Question: who?")
    assert metadata["splits"]["train"]["dropped"] == {"prompt": 1}
    assert "without_task_instruction" not in metadata["splits"]["train"]


def test_tables_are_images_and_alternatives_may_be_a_list(tmp_path, convert):
    names = views(tmp_path / "src", 2)
    task = {"context": "{table#2} and {image#1}: who?", "images_path": names}
    records = [demon_record(1, names, task_instance=task), demon_record(2, names, response=["three", "3"])]
    records += [demon_record(3, names, response=3), demon_record(4, names, response=[[1, 2, 3, 4]])]
    rows, metadata = convert("nuscenes", write(tmp_path / "src" / "full.json", records))
    assert [image["path"] for image in rows[0]["images"]] == ["images/1.jpg", "images/0.jpg"]
    assert rows[0]["extra_info"]["sources"] == ["view_2", "view_1"]
    assert [truth(row) for row in rows] == ["a car", "three or 3", "3"]
    assert metadata["splits"]["train"]["dropped_ids"] == {"truth": ["full.json:3"]}


def m4_record(number, data_set, split, names):
    metadata = {"dataset": data_set, "split": split, "task_instruction": "Look.", "num_sample": 3}
    text = "<image>" * len(names) + f"\nWho is {number}?"
    paths = [f"{data_set}/full/images/{name}" for name in names]
    return {"sample_id": number, "conversations": talk(text, "a car"), "image": paths, "metadata": metadata}


def test_one_file_of_many_sets_and_splits(tmp_path, convert, caplog):
    names = views(tmp_path / "src", 2)
    sets = [("nuscenes", "train"), ("OCR-VQA", "train"), ("nuscenes", "test"), ("OCR-VQA", "val"), ("other", "train")]
    records = [m4_record(i, data_set, split, names) for i, (data_set, split) in enumerate(sets)]
    records.append({**m4_record(5, "nuscenes", "train", names), "metadata": None})
    source = write(tmp_path / "src" / "m4_instruct.json", records)
    rows, metadata = convert("nuscenes", source)
    assert [(row["extra_info"]["id"], row["extra_info"]["split"]) for row in rows] == [
        ("2", "test"), ("0", "train"), ("5", "train")
    ]  # fmt: skip
    assert metadata["left_out"] == {"records_of_other_sets": 3}
    rows, metadata = convert("ocr_vqa", source)
    assert [row["extra_info"]["id"] for row in rows] == ["3", "1", "5"]
    assert caplog.messages == []
    # No record names the set: they are all taken for it, and that is said.
    rows, metadata = convert("spatialqa", source)
    assert "no record belongs to spatialqa; the records name nuscenes, ocrvqa, other; all are used" in caplog.text
    assert len(rows) == 6
    assert metadata["left_out"] == {}


@pytest.mark.parametrize(
    ("metadata", "name", "split"),
    [({"split": "test"}, "full", "test"), ({"split": "core"}, "x", "test"), ({"split": "full"}, "full", "train"),
     ({"split": "train"}, "test", "train"), ({"split": ["train"]}, "x", "train"), ({}, "ocr-test", "test"),
     ({}, "latest", "train")],
)  # fmt: skip
def test_the_split_of_a_file(tmp_path, convert, metadata, name, split):
    names = views(tmp_path / "src", 2)
    source = write(tmp_path / "src" / f"{name}.json", {"data": [demon_record(1, names)], "metadata": metadata})
    assert list(convert("nuscenes", source)[1]["splits"]) == [split]


@pytest.mark.parametrize(
    ("listed", "response", "letter"),
    [
        (None, "b", "B"), (None, "B. Travel", "B"), (None, "(B) Travel.", "B"), (None, "travel", "B"),
        (None, "<answer>Travel</answer>", "B"), (None, ["Travel"], "B"),
        (["Travel", "not the same", "Law"], "Travel", "B"), (["Travel", "not the same", "Law"], "A", "A"),
    ],
)  # fmt: skip
def test_the_truth_is_the_letter_that_the_text_shows(tmp_path, convert, listed, response, letter):
    """Also where the list beside the text has another order."""
    names = views(tmp_path / "src", 2)
    context = "Question: which? Choice list : [A. not the same, B. Travel, C. Law]."
    record = demon_record(1, names, context, response=response, choice_list=listed)
    rows, _ = convert("ocr_vqa", write(tmp_path / "src" / "t.json", [record]))
    assert (truth(rows[0]), rows[0]["extra_info"]["choices"]) == (letter, ["not the same", "Travel", "Law"])
    assert texts(rows[0])[0][1].count("Choice list") == 1


@pytest.mark.parametrize("listed", [None, ["not the same", "Law, Tax", "Poe's"]])
def test_choices_without_letters_get_them(tmp_path, convert, listed):
    names = views(tmp_path / "src", 2)
    context = "Which? Choice List:['not the same', 'Law, Tax', 'Poe's'] Your answer is:"
    record = demon_record(1, names, context, response="Law, Tax", choice_list=listed)
    rows, _ = convert("ocr_vqa", write(tmp_path / "src" / "t.json", [record]))
    shown = "Which? Choice List:[A. not the same, B. Law, Tax, C. Poe's] Your answer is:"
    assert texts(rows[0])[0][1] == f"<image><image>\n{shown}"
    assert (truth(rows[0]), rows[0]["extra_info"]["choices"]) == ("B", ["not the same", "Law, Tax", "Poe's"])


# Evaluation files


def test_windows_and_absolute_paths(tmp_path, convert, spectra):
    befores = ["", "data\\images\\LLVIP\\", "D:\\sets\\LLVIP\\", "/home/someone/LLVIP/", "./", "C:/x/"]
    for before in befores:
        for style in ("/", "\\"):
            paths = [before + path.replace("/", style) for path in spectra]
            source = write(tmp_path / "src" / "llvip.json", [evaluation(paths, "Detect.", [[1, 2, 3, 4]])])
            rows, _ = convert("eval_json", source)
            assert [image["path"] for image in rows[0]["images"]] == spectra, paths
            assert rows[0]["extra_info"]["sources"] == ["visible", "infrared"]


def test_the_rule_for_paths_holds_though_the_first_images_are_missing(tmp_path, convert, spectra):
    gone = [[f"data/LLVIP/{path.replace('1.jpg', f'gone{i}.jpg')}" for path in spectra] for i in range(60)]
    there = [f"data/LLVIP/{path}" for path in spectra]
    records = [evaluation(paths, "Detect.", [[1, 2, 3, 4]]) for paths in [*gone, there]]
    rows, metadata = convert("eval_json", write(tmp_path / "src" / "llvip.json", records))
    assert metadata["splits"]["llvip"]["dropped"] == {"image_missing": 60}
    assert rows[0]["extra_info"]["id"] == "llvip-60", "an id says which record it is, whatever is left out"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ([[1, 2, 3, 4]], "[[1, 2, 3, 4]]"), ([[1.5, 2, 3, 4.25]] * 11, json.dumps([[1.5, 2, 3, 4.25]] * 11)),
        ("[[1, 2, 3, 4]]", "[[1, 2, 3, 4]]"), ("<answer>[[1,2,3,4]]</answer>", "[[1,2,3,4]]"),
        ([1, 2, 3, 4], "[1, 2, 3, 4]"), ([{"bbox_2d": [1, 2, 3, 4]}], '[{"bbox_2d": [1, 2, 3, 4]}]'), ([], "[]"),
        ("<answer> Yes </answer>", "Yes"), (3, "3"), (0, "0"), (["three", "3"], "three or 3"),
        ([[1, 2, 41, 4]], None), ([[3, 2, 1, 4]], None), ([["1", "2", "3", "4"]], None), ([[1, 2, 3]], None),
        (True, None), (None, None), ("", None), ({"boxes": []}, None),
    ],
)  # fmt: skip
def test_truths_of_evaluation_files(tmp_path, convert, spectra, given, written):
    good = evaluation(spectra, "Detect.", [[9, 9, 10, 10]])
    rows, metadata = convert("eval_json", write(tmp_path / "src" / "e.json", [good, evaluation(spectra, "D", given)]))
    assert [truth(row) for row in rows[1:]] == ([] if written is None else [written])
    assert metadata["splits"]["e"]["dropped"] == ({"truth": 1} if written is None else {})


def test_tags_in_the_text_of_an_evaluation_file(tmp_path, convert, pair):
    records = [
        evaluation(pair, "<image 2> is the depth of <image 1>. A cup?", "Yes"),
        evaluation(pair, "Is <image> one?", "Yes"),
        evaluation(pair, "<image 1> A cup?", "Yes"),
    ]
    rows, metadata = convert("eval_json", write(tmp_path / "src" / "spatialqa_eval.json", records))
    assert texts(rows[0]) == [("user", "<image>\nis the depth of <image>. A cup?")]
    assert rows[0]["extra_info"]["sources"] == ["depth", "rgb"]
    assert metadata["splits"]["spatialqa_eval"]["dropped"] == {"sources": 2}


def test_a_benchmark_is_asked_as_it_is(tmp_path, convert, spectra):
    """Twice is twice; a training set has a row once, with an id or without."""
    records = [evaluation(spectra, "Detect.", [[1, 2, 3, 4]])] * 2
    records += [evaluation(spectra, "Detect.", [[1, 2, 3, 4]], extra_info={"sample_id": 0})] * 2
    rows, metadata = convert("eval_json", write(tmp_path / "src" / "llvip.json", records))
    assert [row["extra_info"]["id"] for row in rows] == ["llvip-0", "llvip-1", "0", "0.2"]
    line = {"problem": "<image>Who?", "answer": "Anna", "images": spectra[:1]}
    rows, metadata = convert("jsonl", write(tmp_path / "src" / "llvip.json", [line, line, {**line, "id": 0}]))
    assert [row["extra_info"]["id"] for row in rows] == ["llvip-0", "0"]
    assert metadata["splits"]["llvip"]["dropped"] == {"duplicate": 1}


def test_no_two_rows_have_one_id(tmp_path, convert, spectra):
    ids = ["a", "a", "a.2", "a", "t-4"]
    records = [
        evaluation(spectra, str(i), [[1, 2, 3, 4]], extra_info={"sample_id": name}) for i, name in enumerate(ids)
    ]
    records.insert(4, evaluation(spectra, "none", [[1, 2, 3, 4]]))
    rows, _ = convert("eval_json", write(tmp_path / "src" / "t.json", records))
    assert [row["extra_info"]["id"] for row in rows] == ["a", "a.2", "a.2.2", "a.3", "t-4", "t-4.2"]


@pytest.mark.parametrize(
    ("name", "data_source"),
    [("OCR-VQA_eval_head", "ocr_vqa"), ("eval_ocrvqa", "ocr_vqa"), ("test-LLVIP", "llvip"), ("mine", "mine")],
)
def test_the_set_that_a_file_is_named_after(tmp_path, convert, spectra, name, data_source):
    rows, _ = convert("eval_json", write(tmp_path / "src" / f"{name}.json", [evaluation(spectra, "A?", "b")]))
    assert rows[0]["data_source"] == data_source


# Rows of other frameworks


def test_content_lists_and_further_columns_of_verls_rows(tmp_path, convert):
    views(tmp_path / "src", 2)
    part = {"type": "text", "text": "Which?"}
    lines = [
        {"prompt": [{"role": "user", "content": [{"type": "image"}, part]}], "images": ["images/0.jpg"], "answer": "x"},
        {"prompt": [{"role": "user", "content": [part, {"type": "image", "image": "images/1.jpg"}]}], "answer": "x"},
        {"prompt": "<image>Asked", "question": "raw", "images": ["images/0.jpg"], "answer": "x", "id": 0,
         "extra_info": {"split": "val", "image_sizes": [[40, 32]]}},
    ]  # fmt: skip
    rows, _ = convert("jsonl", write(tmp_path / "src" / "own.jsonl", lines))
    assert [texts(row)[0][1] for row in rows] == ["<image>Which?", "Which?<image>", "<image>Asked"]
    assert [row["images"][0]["path"] for row in rows] == ["images/0.jpg", "images/1.jpg", "images/0.jpg"]
    assert (rows[2]["extra_info"]["id"], rows[2]["extra_info"]["split"]) == ("0", "val")
    assert rows[0]["extra_info"]["sources"] == ["image"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"extra_info": {"image_sizes": [[80, 64], [40, 32]]}}, "image_sizes"),
        ({"extra_info": {"image_sizes": [[40, 32]]}}, "image_sizes"),
        ({"extra_info": {"encodings": ["rgb"]}}, "encodings"),
        ({"extra_info": {"encodings": {"depht": "depth_clip"}}}, "encodings"),
        ({"extra_info": {"encodings": ["depth_clip", "rgb"]}}, "image_bit_depth"),
        ({"extra_info": {"sources": ["one"]}}, "sources"),
        ({"extra_info": {"sources": ["one", "one"]}}, "sources"),
        ({"extra_info": {"sources": [["one"], "two"], "encodings": {"one": "rgb"}}}, "sources"),
        ({"extra_info": {"sources": "ab"}}, "sources"),
        ({"extra_info": {"box_space": "pixels"}}, "extra_info"),
        ({"extra_info": "none"}, "extra_info"),
        ({"extra_info": {"choices": ["x", "y"]}}, "truth"),
        ({"reward_model": "rule"}, "truth"),
        ({"problem": "<image> Who <|im_end|>?"}, "special_token"),
        ({"images": ["images/0.jpg", "images/../images/1.jpg"]}, "image_path"),
        ({"images": ["images/0.jpg"]}, "sources"),
        ({"images": [{"bytes": "QUJD", "path": None}] * 2}, "image_missing"),
    ],
)
def test_what_a_row_declares_is_not_dropped_in_silence(tmp_path, convert, change, reason):
    views(tmp_path / "src", 2)
    good = {"problem": "<image><image>Who?", "answer": "Anna", "images": ["images/0.jpg", "images/1.jpg"]}
    source = write(tmp_path / "src" / "own.jsonl", [good, {**good, **change}])
    assert convert("jsonl", source)[1]["splits"]["own"]["dropped"] == {reason: 1}
    with pytest.raises(DataError, match=rf"1 of 2 rows(.|\n)*own\.jsonl:1 +{reason} "):
        convert("jsonl", source, "--on-bad-sample", "error")


def test_sizes_follow_the_tags(tmp_path, convert):
    picture(tmp_path / "src" / "a.jpg", size=(40, 32))
    picture(tmp_path / "src" / "b.jpg", size=(20, 16))
    line = {"problem": "<image 2> or <image 1>?", "answer": "x", "images": ["a.jpg", "b.jpg"],
            "extra_info": {"image_sizes": [[40, 32], [20, 16]]}}  # fmt: skip
    rows, _ = convert("jsonl", write(tmp_path / "src" / "own.jsonl", [line]))
    assert [image["path"] for image in rows[0]["images"]] == ["b.jpg", "a.jpg"]
    assert rows[0]["extra_info"]["image_sizes"] == [[20, 16], [40, 32]]


# Files


def test_blank_lines_count_and_a_set_may_be_called_dataset(tmp_path, convert):
    views(tmp_path / "src", 1)
    source = tmp_path / "src" / "rows.jsonl"
    good = json.dumps({"problem": "<image>Who?", "answer": "x", "images": ["images/0.jpg"]})
    source.write_text(f"{good}\n\n  \n{{broken\n")
    _, metadata = convert("jsonl", source)
    assert metadata["splits"]["rows"]["dropped_ids"] == {"json": ["rows.jsonl:3"]}
    source.rename(tmp_path / "src" / "dataset.json")
    assert list(convert("jsonl", tmp_path / "src")[1]["splits"]) == ["dataset"]
    # A metadata that another conversion wrote is none of it.
    write(tmp_path / "src" / "more.json", [json.loads(good)])
    (tmp_path / "out" / "dataset.json").replace(tmp_path / "src" / "dataset.json")
    assert list(convert("jsonl", tmp_path / "src")[1]["splits"]) == ["more"]


def test_a_refused_set_lists_every_bad_item(tmp_path, convert, spectra):
    records = [evaluation(spectra, "A?", None)] * 70
    with pytest.raises(DataError) as caught:
        convert("eval_json", write(tmp_path / "src" / "t.json", records), "--on-bad-sample", "error")
    assert all(f"t.json:{number} " in str(caught.value) for number in range(70))


def test_names_that_are_no_text(tmp_path, convert):
    good = {"problem": "<image>Who?", "answer": "x", "images": ["images/0.jpg"]}
    views(tmp_path / "src", 1)
    source = write(tmp_path / "src" / "rows.json", [good])
    for options in (("--name", "\udcff"), ("--licence", "\udcff")):
        with pytest.raises(DataError, match=rf"{options[0]}: is not Unicode text"):
            convert("jsonl", source, *options)
    source.rename(tmp_path / "src" / "r\udcff.json")
    with pytest.raises(DataError, match=r"split .*: is not Unicode text"):
        convert("jsonl", tmp_path / "src", "--name", "mine")
    assert not (tmp_path / "out").exists()
    write(tmp_path / "src" / "a\nb.json", [good])
    (tmp_path / "src" / "r\udcff.json").unlink()
    (tmp_path / "src" / "images" / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"a\\nb\.json:0 +image_missing "):
        convert("jsonl", tmp_path / "src")


def test_a_source_that_is_not_there(tmp_path, convert):
    for name in ("none.json", "none/set.json", "none"):
        with pytest.raises(DataError, match=f"{name}: no such file or folder"):
            convert("ocr_vqa", tmp_path / name)


def test_a_folder_that_cannot_be_written(tmp_path, convert, spectra):
    source = write(tmp_path / "src" / "t.json", [evaluation(spectra, "A?", "b")])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SetupError, match="out: cannot be written"):
        convert("eval_json", source)


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path, monkeypatch, convert):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)  # for root, no permissions refuse anything
    with pytest.raises(PermissionError) as refused:
        convert("jsonl", tmp_path)
    assert refused.value.filename == str(tmp_path)
