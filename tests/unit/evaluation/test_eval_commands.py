"""The commands and scripts around result files: tables, JSON, the page, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mars.cli.app import app
from mars.cli.eval_settings import evaluation_config
from mars.errors import ConfigError, DataError, MarsError
from mars.evaluation.files import result_paths
from mars.evaluation.questions import convert_questions, first_task, readable_file
from mars.evaluation.summary import EvalRecord, summarize
from mars.report.scores import show_evaluation
from tests.unit.evaluation.result_files import (
    hostile_folder,
    line,
    vqa_text,
    write_folder,
    write_public,
)

ROOT = Path(__file__).parents[3]


def call(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    return hostile_folder(tmp_path)


def test_the_page_shows_pictures_boxes_and_escaped_text(folder, tmp_path):
    page = tmp_path / "page.html"
    done = call("score", folder, "--task", "grounding", "--html", page)
    assert done.exit_code == 0, done.output
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 1
    assert "Image not shown" in html, "infrared.png is missing, and said to be"
    assert re.search(r'<rect class="truth" x="0.0" y="0.0" width="0.5" height="0.5"/>', html)
    assert re.search(r'<rect class="mono" x="0.0" y="0.0" width="0.5" height="1.0"/>', html)
    assert html.count("<script") == 1, "the page's own"
    assert "&lt;script&gt;alert(1)" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "run, compat" in html


def test_the_number_of_questions_on_the_page(tmp_path):
    lines = [line(name, None, vqa_text("yes"), "yes") for name in "abcd"]
    folder, page = write_folder(tmp_path / "m", lines), tmp_path / "page.html"
    call("score", folder, "--task", "vqa", "--html", page, "--questions", 2)
    assert page.read_text().count("<article") == 2
    assert "2 of 4 questions: 0 of 0 in which" in page.read_text()
    error = call("score", folder, "--task", "vqa", "--questions", 2).exception
    assert str(error).startswith("--questions: only a page shows questions; got 2 without --html")


def test_several_data_sources_have_tables_of_their_own(tmp_path):
    lines = [line("a", None, vqa_text("yes"), "yes"), line("b", None, vqa_text("no"), "yes", data_source="night")]
    done = call("score", write_folder(tmp_path / "m", lines), "--task", "vqa")
    assert "night (accuracy" in done.output


def test_compare_prints_a_table_or_json(tmp_path):
    files = [
        write_public(tmp_path / f"{name}.json", [(vqa_text(answer), "yes")] * 3)
        for name, answer in (("first", "no"), ("second", "yes"))
    ]
    done = call("compare", *files, "--task", "vqa")
    assert done.exit_code == 0, done.output
    assert "Student" in done.output
    result = json.loads(call("compare", *files, "--task", "vqa", "--json").output)
    assert result["rows"][0]["differences"][1]["mean"] == 1
    assert isinstance(call("compare", files[0], "--task", "vqa").exception, ConfigError)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["missing.json", "--task", "vqa"], 3, "cannot be read"),
        (["bad.json", "--task", "vqa"], 3, "2 of 3 entries cannot be used"),
        (["good.json", "--task", "vqa", "--threshold", "1.5"], 2, "--threshold"),
        (["good.json", "--task", "guess"], 2, "guess"),
        (["good.json"], 2, "--task"),
        (["good.json", "--task", "vqa", "--truth-size", "10x10"], 2, "give both or none"),
        (["good.json", "--task", "vqa", "--truth-size", "10x10", "--response-size", "0x10"], 2, "at least 1"),
        (["good.json", "--task", "vqa", "--truth-size", "10x10", "--response-size", "big"], 2, "--response-size: no"),
    ],
)
def test_faults_have_an_exit_code_and_a_reason(tmp_path, arguments, code, expected):
    write_public(tmp_path / "good.json", [(vqa_text("yes"), "yes")])
    (tmp_path / "bad.json").write_text(json.dumps([{"content": ["a"], "ground_truth": "x"}, 1, 2]))
    done = call("score", tmp_path / arguments[0], *arguments[1:])
    error = done.exception
    assert (error.exit_code if isinstance(error, MarsError) else done.exit_code) == code
    assert expected in f"{error} {done.stderr}"
    assert done.stdout == ""


@pytest.mark.parametrize("threshold", ["-0.5", "1", "nan"])
def test_a_threshold_out_of_range_is_said_to_be_one(folder, threshold):
    done = call("score", folder, "--task", "grounding", "--threshold", threshold)
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("--threshold: must be at least 0 and below 1")


# --- the questions


def official(folder: Path, truths: list, images: list[str]) -> Path:
    content = [{"type": "image", "image": image} for image in images]
    rows = [
        {"role": "user", "content": [*content, {"type": "text", "text": f"Question {k}?"}], "ground_truth": truth}
        for k, truth in enumerate(truths)
    ]
    path = folder / "llvip_eval.json"
    path.write_text(json.dumps(rows))
    return path


def test_an_official_evaluation_file_becomes_rows(tmp_path):
    for name in ("visible", "infrared"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / name / "1.jpg")
    boxes = [[1, 2, 30, 40]]
    path = official(tmp_path, [boxes, boxes], ["visible/1.jpg", "infrared/1.jpg"])
    paths = result_paths(tmp_path / "out")
    assert first_task(str(path)) == "grounding"
    root, dropped = convert_questions(str(path), paths, None, "error")
    assert (root, dict(dropped)) == (str(tmp_path), {})
    from pyarrow import parquet

    rows = parquet.read_table(readable_file(str(path), paths)).to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in rows] == [json.dumps(boxes)] * 2
    assert rows[0]["extra_info"]["sources"] == ["visible", "infrared"]


def test_missing_images_are_refused_in_one_table_or_dropped_and_counted(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "1.jpg")
    rows = json.loads(official(tmp_path, ["yes", "no", "yes"], ["1.jpg"]).read_text())
    rows[1]["content"][0]["image"] = rows[2]["content"][0]["image"] = "gone.jpg"
    (tmp_path / "q.json").write_text(json.dumps(rows))
    paths = result_paths(tmp_path / "out")
    with pytest.raises(DataError, match=r"2 of 3[^$]*leave them out with data\.on_bad_sample=drop"):
        convert_questions(str(tmp_path / "q.json"), paths, None, "error")
    _, dropped = convert_questions(str(tmp_path / "q.json"), paths, None, "drop")
    assert dict(dropped) == {"image_missing": 2}


@pytest.mark.parametrize(("truth", "task"), [("yes", "vqa"), ([[1, 2, 3, 4]], "grounding"), ("[]", "grounding")])
def test_the_task_is_read_off_the_first_truth(tmp_path, truth, task):
    assert first_task(str(official(tmp_path, [truth], []))) == task
    row = {"prompt": "Why?", "answer": truth if isinstance(truth, str) else json.dumps(truth)}
    (tmp_path / "q.jsonl").write_text("\n" + json.dumps(row) + "\n")
    assert first_task(str(tmp_path / "q.jsonl")) == task
    assert readable_file("q.jsonl", result_paths(tmp_path)) == "q.jsonl"


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", "[1]", "[[]]", "\x00"])
def test_questions_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(DataError, match=r"q\.json: "):
        first_task(str(tmp_path / "q.json"))


def test_missing_questions_are_refused(tmp_path):
    for name in ("q.json", "q.jsonl", "q.parquet", "q.txt"):
        with pytest.raises(DataError, match=re.escape(name)):
            first_task(str(tmp_path / name))


@pytest.mark.parametrize("more", [["cluster.placement=colocated"], ["cluster=local", "cluster.device=cuda"]])
def test_an_evaluation_has_no_ranks_to_share_gpus_with(monkeypatch, more):
    """A run's settings may say otherwise: no rule about ranks refuses them, and vLLM need not be able to sleep."""
    monkeypatch.setattr("mars.cluster.environment.prepare_process", lambda *given: None)
    engines = [] if "cluster=local" in more else ["rollout.num_workers=2", "rollout.weight_transfer=cuda_ipc"]
    config = evaluation_config("model", "rows.jsonl", ["cluster.device=cuda", *engines, *more], [], like=None)
    assert (config.cluster.placement, config.rollout.weight_transfer) == ("separate", "object_store")


def test_a_reward_of_ones_own_as_a_task_is_told_the_command_that_takes_it(tmp_path):
    error = call("score", tmp_path, "--task", "close.py:score").exception
    assert isinstance(error, ConfigError)
    assert "; with a reward of your own, ask and score at once: mars eval run MODEL DATA " in str(error)
    assert "reward.function=close.py:score" in str(error)


def test_an_evaluation_is_shown_with_its_score_its_parts_and_what_was_cut_off(capsys):
    record = EvalRecord("a", "set", None, 1.0, failed=False, metric="accuracy")
    result = summarize([record], name="eval", step=0, model="m", threshold=None)
    means = {"score": 1.25, "parts": {"close": 0.5, "form": 0.125}, "n": 1}
    show_evaluation({**result, "unreadable": {}, "cut_off": 3, "reward": means})
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "1 answers to 1 questions",
        "3 answers were cut off at the token limit",
        "mean reward of 1 answers to all images: score 1.25, part close 0.5, part form 0.125",
    ]
    show_evaluation({**result, "unreadable": {}, "cut_off": 0, "reward": None})
    assert capsys.readouterr().out.splitlines()[-1] == "1 answers to 1 questions"
