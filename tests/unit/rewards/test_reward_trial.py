"""`mars reward try`: what it shows, as text and as JSON, and how it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from mars.cli.reward import describe, fields_of_options, summary, try_reward
from mars.errors import ConfigError, DataError
from mars.rewards.built_in import wanted_rewards
from mars.rewards.trial import item_of, read_items, run_trials, trial_record

FILE = Path(__file__).parent / "user_rewards.py"
TRUTH = "[[320, 256, 640, 512]]"
BOXES = '<think>two</think><answer>```json\n[{"bbox_2d": [160, 128, 320, 256]}, [1, 2, 3]]\n```</answer>'
SIZES = {"truth_size": [1280, 1024], "response_size": [640, 512]}


def one(spec: str, scorer: str = "strict", **fields):
    (trial,) = run_trials(spec, scorer, [("", item_of(fields))], timeout_s=10.0)
    return trial


def records(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(("scorer", "score"), [("strict", 1.75), ("compat", 1.25)])
def test_grounding_as_json(capfd, scorer: str, score: float) -> None:
    try_reward("grounding", scorer, BOXES, None, {"truth": TRUTH, **SIZES}, as_json=True)
    (record,) = records(capfd.readouterr().out)
    seconds = record.pop("seconds")
    assert 0 < seconds < 1
    assert record == {
        "reward": "grounding",
        "scorer": scorer,
        "row": None,
        "think": "two",
        "answer": BOXES.partition("<answer>")[2].removesuffix("</answer>"),
        "boxes": [[160.0, 128.0, 320.0, 256.0], {"problem": "is not four numbers"}],
        "no_boxes": None,
        "truth": TRUTH,
        "truth_size": [1280, 1024],
        "response_size": [640, 512],
        "parts": {"format": 0.75, "accuracy": 1.0, "compat": 0.5, "extra_boxes": 1.0},
        "score": score,
        "accuracy": 1.0,
        "failed": None,
    }


def test_the_same_as_text() -> None:
    text = describe(one("grounding", "compat", response=BOXES, truth=TRUTH, **SIZES), "grounding", "compat")
    lines = text.splitlines()
    assert lines[:-1] == [
        "reward    grounding, compat scorer",
        "think     two",
        'answer    ```json\\n[{"bbox_2d": [160, 128, 320, 256]}, [1, 2, 3]]\\n```',
        "boxes     [160, 128, 320, 256]",
        "          malformed: is not four numbers",
        "truth     [[320, 256, 640, 512]]",
        "frames    boxes in 640 x 512, truth in 1280 x 1024",
        "parts     format 0.75, accuracy 1, compat 0.5, extra_boxes 1",
        "score     1.25",
        "accuracy  1",
    ]
    assert lines[-1].startswith("time      ")
    assert lines[-1].endswith(" ms")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<think>t</think>", "there is no answer"),
        ("<answer>a</answer><answer>b</answer>", "there is no answer"),
        ("<answer>nobody</answer>", "not JSON: Expecting value"),
        ("<answer>7</answer>", "not a list of boxes"),
        ("<answer>```json\n[]\n``` ```json\n[]\n```</answer>", "want one closed ```json fence, or none"),
        ("<answer>```json\n[]</answer>", "want one closed ```json fence, or none"),
        ("<answer>" + "[" * 40 + "</answer>", "nested deeper than 32"),
        ("<answer>[" + "[1, 2, 3, 4]," * 101 + "[1, 2, 3, 4]]</answer>", "102 boxes, at most 101 are looked at"),
    ],
)
def test_why_there_are_no_boxes(answer: str, reason: str) -> None:
    trial = one("grounding", response=answer, truth="[[0, 0, 10, 10]]")
    assert trial.result.accuracy == 0.0
    assert trial.reading.boxes is None
    assert trial.reading.no_boxes is not None
    assert trial.reading.no_boxes.startswith(reason)
    assert f"boxes     none: {reason}" in describe(trial, "grounding", "strict")


def test_an_empty_list_is_no_missing_list() -> None:
    trial = one("grounding", response="<answer>[]</answer>", truth="[]")
    assert (trial.reading.boxes, trial_record(trial)["boxes"]) == ((), [])
    assert "boxes     an empty list" in describe(trial, "grounding", "strict")


@pytest.mark.parametrize("name", ["vqa", "grounding", f"{FILE}:length"])
def test_nothing_a_model_writes_reaches_the_terminal_as_it_is(capfd, name: str) -> None:
    wild = "\x1b[2J\x1b]0;x\x07\r\x00\u202e\u200b\ud800\n"
    text = f"<think>{wild}</think><answer>{wild}[[1, 2, 3, 4]]</answer>{wild}"
    truth = "[[1, 2, 3, 4]]" if name == "grounding" else "red"
    try_reward(name, "strict", text, None, {"truth": truth, "data_source": wild}, as_json=False)
    shown = capfd.readouterr().out
    assert {char for char in shown if not char.isprintable()} == {"\n"}
    assert "\\x1b[2J\\x1b]0;x\\x07\\r\\x00\\u202e\\u200b\\ud800\\n" in shown
    try_reward(name, "strict", text, None, {"truth": truth}, as_json=True)
    out = capfd.readouterr().out
    assert out.isascii()
    assert records(out)[0]["think"] == wild


def test_long_texts_and_many_boxes_are_cut_in_text_alone() -> None:
    boxes = [[0, 0, 1, number] for number in range(1, 51)]
    trial = one("grounding", response=f"<think>{'x' * 9000}</think><answer>{boxes}</answer>", truth=str(boxes))
    shown = describe(trial, "grounding", "strict")
    assert "(8600 more characters)" in shown
    assert "… and 38 more" in shown
    assert len(shown) < 3000
    assert len(trial_record(trial)["boxes"]) == 50
    assert len(trial_record(trial)["think"]) == 9000


def test_choices_and_extra_info(capfd) -> None:
    text = "<answer>B. Travel</answer>"
    fields = fields_of_options("B", ["red", "Travel"], None, None, None, None)
    try_reward("vqa", "strict", text, None, fields, as_json=True)
    fields = fields_of_options("B", None, None, None, None, '{"choices": ["red", "Travel"]}')
    try_reward("vqa", "compat", text, None, fields, as_json=True)
    assert [(record["accuracy"], record["boxes"]) for record in records(capfd.readouterr().out)] == [(1.0, None)] * 2


def test_users_functions_in_both_signatures(capfd) -> None:
    fields = {"truth": "red", "data_source": "test", "extra_info": {"bonus": 2}}
    try_reward(f"{FILE}:length", "strict", "abc", None, {"truth": ""}, as_json=True)
    try_reward(f"{FILE}:verl", "strict", "red", None, fields, as_json=True)
    ours, verl = records(capfd.readouterr().out)
    assert (ours["score"], ours["accuracy"], ours["parts"]) == (6.0, 1.0, {})
    assert (verl["score"], verl["parts"]) == (1.0, {"bonus": 2.0, "is_test": 1.0})


LINES = r"""
{"response": "<think>t</think><answer>yes</answer>", "truth": "yes"}
"<answer>no</answer>"
   
{"response": "<answer>D</answer>", "truth": "D", "choices": ["a", "b", "c", "d"], "extra_info": {"id": 7}}
"""


def test_a_file_of_responses(capfd, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(LINES)
    try_reward("vqa", "strict", None, file, {"truth": "no"}, as_json=True)
    rows = records(capfd.readouterr().out)
    assert [(row["row"], row["truth"], row["score"]) for row in rows] == [
        (f"{file}:2", "yes", 1.5),
        (f"{file}:3", "no", 1.25),
        (f"{file}:5", "D", 1.25),
    ]
    try_reward("vqa", "strict", None, file, {"truth": "yes"}, as_json=False)
    blocks = capfd.readouterr().out.split("\n\n")
    assert [f"row       {file}:{line}" in block for line, block in zip((2, 3, 5), blocks, strict=False)] == [True] * 3
    assert blocks[3].startswith("3 answers, 0 failed: mean score 1, mean accuracy 0.666667, longest time ")


def test_a_failed_answer_is_shown_counted_and_refused_in_the_end(capfd, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('"raise \\u001b[2J"\n"fine"\n"nan"\n')
    with pytest.raises(ConfigError) as caught:
        try_reward(f"{FILE}:misbehave", "strict", None, file, {"truth": ""}, as_json=False)
    assert f"failed on 2 of 3 answers; the first: {file}:1 ValueError: cannot read \\x1b[2J" in str(caught.value)
    out = capfd.readouterr().out
    assert "failed    ValueError: cannot read \\x1b[2J\n" in out
    assert "failed    score is not a finite number; got nan\n" in out
    assert "3 answers, 2 failed: mean score 4, mean accuracy 0.333333," in out


def test_all_failed_has_no_mean() -> None:
    trials = list(run_trials(f"{FILE}:misbehave", "strict", [("", item_of({"response": "nan", "truth": ""}))], 10.0))
    assert summary(trials).startswith("1 answers, 1 failed: mean score none, mean accuracy 0, ")


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
        ("7", "want an object or a text; got int"),
        ('["a"]', "want an object or a text; got list"),
        ("{}", "response: is missing"),
        ('{"response": null}', "response: is missing"),
        ('{"response": 7}', "response: got int; want a text"),
        ('{"response": "a", "truth": null}', "truth: is missing"),
        ('{"response": "a", "answer": "b"}', "'answer': no such key; want response, truth"),
        ('{"response": "a", "extra_info": []}', "extra_info: got list; want a mapping"),
        ('{"response": "a", "data_source": 1}', "data_source: got int; want a text"),
        ('{"response": "a", "truth_size": [1, 2]}', "truth_size and response_size: only one is given"),
        ('{"response": "a", "truth_size": [1], "response_size": [1, 2]}', "truth_size: got '[1]'; want two"),
        ('{"response": "a", "truth_size": [0, 1], "response_size": [1, 2]}', "want two positive whole numbers"),
        ('{"response": "a", "truth_size": [1.5, 1], "response_size": [1, 2]}', "want two positive whole numbers"),
        ('{"response": "a", "truth_size": [true, 1], "response_size": [1, 2]}', "want two positive whole numbers"),
        ('{"response": "a", "truth_size": "1x2", "response_size": [1, 2]}', "want two positive whole numbers"),
    ],
)
def test_bad_lines_are_named_all_at_once(tmp_path: Path, line: str | bytes, fragment: str) -> None:
    file = tmp_path / "answers.jsonl"
    encoded = line if isinstance(line, bytes) else line.encode()
    file.write_bytes(b'{"response": "fine", "truth": "a"}\n' + encoded + b"\n" + encoded)
    common = {} if "truth: is" in fragment else {"truth": "a"}
    with pytest.raises(DataError) as caught:
        read_items(file, common)
    problems = [line for line in str(caught.value).splitlines() if fragment in line]
    assert [problem.partition(": ")[0] for problem in problems] == [f"{file}:2", f"{file}:3"]
    assert all(len(problem) < 400 for problem in problems)


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match="holds no responses"):
        read_items(tmp_path / "empty.jsonl", {})
    for path in (tmp_path, tmp_path / "absent.jsonl"):
        with pytest.raises(DataError, match="cannot be read"):
            read_items(path, {})


def test_bad_truths_are_named_before_anything_is_scored(capfd, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f'{{"response": "a", "truth": "{truth}"}}\n' for truth in ["yes", "", "yes or no"] * 12))
    with pytest.raises(DataError) as caught:
        try_reward("vqa", "strict", None, file, {}, as_json=True)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{file}:2: truth: empty")
    assert lines[1].startswith(f"{file}:3: truth: accepts both yes and no")
    assert (len(lines), lines[20]) == (21, "… and 4 more")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ((None, None, None), "--text, --file: exactly one of them is needed; got neither"),
        (("a", "b", None), "--text, --file: exactly one of them is needed; got both"),
        (("a", None, None), "--truth: is missing"),
    ],
)
def test_wrong_options(tmp_path: Path, options: tuple, fragment: str) -> None:
    text, file, truth = options
    with pytest.raises(ConfigError) as caught:
        try_reward("vqa", "strict", text, file and Path(file), {"truth": truth}, as_json=False)
    assert str(caught.value).startswith(fragment)


@pytest.mark.parametrize("size", ["", "10", "10x", "x10", "10x-1", "1.5x2", "10x10x10", "²x2", "a", "1" * 30 + "x1"])
def test_wrong_sizes_on_the_command_line(size: str) -> None:
    with pytest.raises(ConfigError, match="--truth-size: not a size"):
        fields_of_options("a", None, size, "10x10", None, None)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_wrong_extra_info_on_the_command_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--extra-info: is not JSON"):
        fields_of_options("a", None, None, None, None, text)


def test_exit_codes_and_streams_of_the_command(mars, tmp_path: Path) -> None:
    run = partial(mars, "reward", "try")
    good = run("vqa", "--text", "<answer>yes</answer>", "--truth", "yes", "--json")
    assert (good.returncode, good.stderr, records(good.stdout)[0]["score"]) == (0, "", 1.25)
    assert "score     1.25" in run("vqa", "--text", "<answer>yes</answer>", "--truth", "yes").stdout
    bad_truth = run("vqa", "--text", "a", "--truth", "")
    assert (bad_truth.returncode, bad_truth.stdout) == (3, "")
    assert bad_truth.stderr.startswith("truth: empty")
    for arguments, fragment in (
        (("vq", "--text", "a", "--truth", "b"), f"want one of {wanted_rewards()}"),
        ((f"{FILE}:length", "--text", "a", "--truth", "b", "--scorer", "compat"), "reward.scorer: only grounding"),
        (("vqa", "--text", "a", "--truth", "b", "--scorer", "lax"), "'strict', 'compat'"),
        ((f"{FILE}:misbehave", "--text", "nan", "--truth", "b"), "failed on 1 of 1 answers; the first: score is not"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert fragment in refused.stderr
        assert "Traceback" not in refused.stderr
