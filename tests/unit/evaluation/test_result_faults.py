"""Result files that are not what they claim, and places where nothing can be written: a reason and an exit code."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mars.cli.app import app
from mars.errors import ConfigError, DataError, SetupError
from mars.evaluation.files import check_out, read_results, result_paths
from mars.evaluation.fingerprints import images_fingerprint
from mars.output.files import check_writable, write_atomically
from mars.report.scores import score_file
from mars.types import ImageRef, RolloutRequest, Sampling
from tests.unit.evaluation.result_files import boxes_text, line, vqa_text, write_folder, write_public
from tests.unit.evaluation.test_ask import World, make_questions

TRUTH = json.dumps([[0, 0, 50, 25]])


def call(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def three_lines() -> list[dict]:
    return [line("a", view, boxes_text([[0, 0, 50, 25]]), TRUTH) for view in (None, "visible", "infrared")]


# --- truths that the task cannot use


@pytest.mark.parametrize("truth", [[[0, 0, 5, 5]], [], ["yes"], {"bbox_2d": [0, 0, 5, 5]}, "[[0, 0, 5, 5]]", "[]"])
def test_boxes_are_no_truth_of_vqa(tmp_path, truth):
    """The answer repeats the truth: as text it would be right."""
    path = write_public(tmp_path / "p.json", [(vqa_text(json.dumps(truth)), truth)])
    with pytest.raises(DataError, match=r"p\.json:0  truth: a list or an object.*boxes are for grounding"):
        score_file(path, "vqa", 0.5, None)


@pytest.mark.parametrize("truth", ["NaN", "Infinity", "-Infinity"])
def test_a_truth_that_is_no_number_is_refused(tmp_path, truth):
    (tmp_path / "p.json").write_text(f'[{{"content": ["{vqa_text(truth)}"], "ground_truth": {truth}}}]')
    with pytest.raises(DataError, match=r"p\.json:0  ground_truth: want a text or a list of boxes; got -?(nan|inf)"):
        score_file(tmp_path / "p.json", "vqa", 0.5, None)


# --- manifest.json


@pytest.mark.parametrize(
    "change",
    [
        {"asked": {"multi": "x"}},
        {"asked": {"multi": None}},
        {"asked": {"multi": math.nan}},
        {"asked": {"multi": True}},
        {"asked": {"multi": -1}},
        {"asked": [1]},
        {"dropped": {"truth": math.nan}},
        {"dropped": {"truth": [1]}},
        {"dropped": None},
        {"unreadable": None},
        {"unreadable": ["a"]},
        {"identity": {}},
        {"identity": {"model": ["m"]}},
        {"identity": "m"},
    ],
)
def test_a_manifest_that_says_no_counts_is_refused(tmp_path, change):
    folder = write_folder(tmp_path / "m", three_lines(), **change)
    with pytest.raises(DataError, match=r"manifest\.json: is not a manifest"):
        read_results(folder)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, r"more answers than were asked for \(multi 1, visible 1, infrared 1\)"),
        ({"multi": 0, "visible": 1, "infrared": 1}, r"more answers than were asked for \(multi 1\)"),
        ({"multi": 1, "visible": 2, "infrared": 1}, r"answers are missing \(visible 1\)"),
    ],
)
def test_answers_are_as_many_as_were_asked(tmp_path, asked, message):
    with pytest.raises(DataError, match=message):
        read_results(write_folder(tmp_path / "m", three_lines(), asked))


@pytest.mark.parametrize("command", ["score", "compare"])
def test_a_question_that_lacks_the_multi_view_is_named(tmp_path, command):
    """As when lines of two files are put together by hand."""
    lines = [*three_lines(), line("b", "visible", boxes_text([]), TRUTH)]
    files = [write_folder(tmp_path / name, lines) for name in ("m", "n")][: 1 + (command == "compare")]
    error = call(command, *files, "--task", "grounding").exception
    assert isinstance(error, DataError)
    assert "rows.jsonl:b  no answer to the multi view, but other questions have one" in str(error)


def test_messages_hold_no_control_characters(tmp_path):
    lines = three_lines()
    for item in lines:
        item.update(row="x\x1b[2J", truth="bad")
    with pytest.raises(DataError) as error:
        score_file(write_folder(tmp_path / "m", lines), "grounding", 0.5, None)
    assert "x\\x1b[2J  truth" in str(error.value)
    assert "\x1b" not in str(error.value)


# --- places where nothing can be written


@pytest.fixture
def a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    return tmp_path / "file"


def test_a_page_that_cannot_be_written_is_refused_before_scoring(tmp_path, a_file):
    (tmp_path / "bad.json").write_text("[]")
    for page in (a_file / "page.html", tmp_path, "/", ".", "/dev/null", tmp_path / ("x" * 300)):
        error = call("score", tmp_path / "bad.json", "--task", "vqa", "--html", page).exception
        assert isinstance(error, SetupError), page
        assert str(error).startswith("--html: ")
    assert a_file.read_text() == "precious"


def test_a_name_that_is_too_long_is_no_file(tmp_path):
    for files in ([tmp_path / ("x" * 300)], [tmp_path / ("x" * 300)] * 2):
        done = call("score" if len(files) == 1 else "compare", *files, "--task", "vqa")
        assert isinstance(done.exception, DataError)


def test_out_of_eval_run_is_checked_before_the_model_is_loaded(a_file):
    error = call("run", "model", "data.parquet", "--out", a_file / "out.json").exception
    assert isinstance(error, SetupError)
    assert str(error).startswith("--out: ")


def test_a_page_is_not_written_over_what_is_no_page(tmp_path):
    folder = write_folder(tmp_path / "answers", three_lines())
    before = (folder / "answers.jsonl").read_bytes()
    error = call("score", folder, "--task", "grounding", "--html", folder / "answers.jsonl").exception
    assert isinstance(error, ConfigError)
    assert (folder / "answers.jsonl").read_bytes() == before


def test_the_result_of_eval_run_is_not_written_over_its_questions(a_file):
    error = call("run", "model", a_file, "--out", a_file.parent / "." / a_file.name).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith("--out: ")
    assert a_file.read_text() == "precious"


@pytest.mark.parametrize("out", ["file", "file/below", "file/below.json"])
def test_infer_says_at_once_that_out_cannot_be_written(tmp_path, a_file, out):
    error = call("infer", "model", "questions.json", tmp_path / out).exception
    assert isinstance(error, SetupError)
    assert str(error).startswith("OUT: ")
    assert a_file.read_text() == "precious"


def test_a_writable_place_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "deep" / "page.html", "--html")
    assert list((tmp_path / "new" / "deep").iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / ".tmp-x.json").mkdir()
    (tmp_path / "x.json").write_text("old")
    with pytest.raises(SetupError, match=r"x\.json: cannot be written"):
        write_atomically(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "old"


def test_a_full_disk_stops_the_asking_with_a_reason(tmp_path, monkeypatch):
    """/dev/full takes no byte."""
    paths = replace(result_paths(tmp_path / "out"), answers=tmp_path / "full")
    monkeypatch.setattr("mars.evaluation.ask._open", lambda questions, paths, wanted: ())
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(SetupError, match=r"full: cannot be written .No space left on device"):
        World(make_questions()).infer(paths)


# --- files that infer must not overwrite


@pytest.mark.parametrize(("questions", "out"), [("q.json", "q.json"), ("q.jsonl", "q.jsonl"), ("q.jsonl", "q.json")])
def test_the_questions_are_not_overwritten_by_their_answers(tmp_path, questions, out):
    (tmp_path / questions).write_text("[]")
    with pytest.raises(ConfigError, match="is the file of questions"):
        check_out(result_paths(tmp_path / out), str(tmp_path / "." / questions))
    assert isinstance(call("infer", "m", tmp_path / questions, tmp_path / out).exception, ConfigError)


def test_a_public_file_of_somebody_else_is_not_overwritten(world_paths, tmp_path):
    write_public(tmp_path / "theirs.json", [("x", "y")])
    with pytest.raises(DataError, match=r"theirs\.json: was not written by mars eval infer"):
        check_out(result_paths(tmp_path / "theirs.json"), "q.json")
    check_out(world_paths, "q.json")


@pytest.fixture
def world_paths(tmp_path):
    """Results of an earlier call, whose public file is made again."""
    paths = result_paths(tmp_path / "ours.json")
    World(make_questions()).infer(paths)
    return paths


# --- what answers depend on


def request(*paths: object) -> RolloutRequest:
    images = tuple(ImageRef(str(path), (9, 9)) for path in paths)
    return RolloutRequest("a", None, (1,), images, num_samples=1, seed=0, sampling=Sampling(1.0, 1.0, 0, 9))


def test_pictures_of_another_folder_are_other_questions(tmp_path):
    same, moved, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    same.write_bytes(b"x" * 200_000)
    moved.write_bytes(b"x" * 200_000)
    other.write_bytes(b"y" + b"x" * 199_999)
    prints = [images_fingerprint([request(path)]) for path in (same, moved, other)]
    assert prints[0] == prints[1] != prints[2]
    assert images_fingerprint([request(same, other)]) != images_fingerprint([request(other, same)])
    cell = replace(request(same), images=(ImageRef("/gone.parquet", (9, 9), "rgb", 0, 1),))
    assert images_fingerprint([cell]) != prints[0]
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        images_fingerprint([request(tmp_path / "gone.png")])


def test_answers_are_json_whatever_a_row_holds(tmp_path):
    questions = make_questions()
    odd = {"n": math.nan, "deep": [{"x": -math.inf}], "fine": 0.5}
    questions = replace(questions, prompts=[replace(prompt, extra_info=odd) for prompt in questions.prompts])
    paths = result_paths(tmp_path / "out")
    World(questions).infer(paths)

    def no_constant(text: str) -> None:
        raise AssertionError(text)

    for text in paths.answers.read_text().splitlines():
        record = json.loads(text, parse_constant=no_constant)
        assert record["extra_info"] == {"n": None, "deep": [{"x": None}], "fine": 0.5}


def test_links_that_never_end_are_files_that_are_not_there(tmp_path):
    (tmp_path / "a.json").symlink_to(tmp_path / "a.json")
    for command in (["infer", "model", "a.json", "out"], ["score", "a.json", "--task", "vqa"], ["show", "a.json"]):
        arguments = [str(tmp_path / part) if part in ("a.json", "out") else part for part in command]
        result = CliRunner().invoke(app, ["eval", *arguments])
        assert isinstance(result.exception, DataError), command
        assert "a.json: " in str(result.exception)


def test_results_of_gigabytes_are_not_read(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as stream:
        stream.truncate(2**31 + 1)  # takes no space on the disk
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(it has 2147483649 bytes; at most 2147483648 are"):
        read_results(tmp_path / "a.jsonl")


def test_the_folder_of_a_run_is_answered_with_its_files(tmp_path):
    for folder, step in (("rollouts", 10), ("rollouts", 20), ("evaluation", 50)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"step_{step:06d}.jsonl").touch()
    for command in (("score", tmp_path, "--task", "vqa"), ("show", tmp_path)):
        message = str(call(*command).exception)
        assert f"{tmp_path}: is the folder of a run" in message
        assert f"give {tmp_path}/evaluation/step_000050.jsonl or {tmp_path}/rollouts/step_000020.jsonl" in message
    empty = tmp_path / "evaluation" / "step_000050.jsonl"
    assert f"{empty}: holds no answers" in str(call("score", empty, "--task", "vqa").exception)


@pytest.mark.parametrize("key", ["sample", "number", "prompt_tokens", "response_tokens", "step"])
def test_counts_are_not_negative(tmp_path, key):
    write_folder(tmp_path, [line("a", None, vqa_text("yes"), "yes") | {key: -1}])
    message = str(call("score", tmp_path, "--task", "vqa").exception)
    assert f"{key}: want a whole number from 0; got -1" in message
