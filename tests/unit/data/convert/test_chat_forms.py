"""Rows of LLaMA-Factory: conversations, messages and Alpaca, with the response for the cold start."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars.checks.data import _place
from mars.data.convert.eval_json import read_json_rows
from mars.data.convert.forms import count_questions, read_question
from mars.data.rows import files
from mars.data.rows.dataset import read_prompts
from mars.data.rows.problems import RowError
from mars.data.rows.texts import load_unicode
from tests.unit.data.convert.small_sets import run_convert

MESSAGES = {
    "messages": [
        {"role": "user", "content": "<image><image>Which is warmer?"},
        {"role": "assistant", "content": "<think>The second.</think><answer>B</answer>"},
    ],
    "images": ["a.png", "b.png"],
    "system": "You see two images.",
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "<image>How many cars?"},
        {"from": "gpt", "value": "<answer>3</answer>"},
        {"from": "human", "value": "And people?"},
        {"from": "gpt", "value": "None."},
    ],
    "images": ["a.png"],
}
ALPACA = {"instruction": "<image>Describe it.", "input": "In a word.", "output": "Cold.", "images": ["b.png"]}


def test_the_forms_are_read():
    question = read_question(MESSAGES, 0, {})
    assert question.turns == (("system", "You see two images."), ("user", "<image><image>Which is warmer?"))
    assert (question.said, question.images) == ("<think>The second.</think><answer>B</answer>", ("a.png", "b.png"))
    question = read_question(ALPACA, 0, {})
    assert (question.turns, question.said) == ((("user", "<image>Describe it.\nIn a word."),), "Cold.")


def test_earlier_turns_are_questions_of_their_own():
    assert count_questions(SHAREGPT) == 2
    assert [read_question(SHAREGPT, k, {}).said for k in (0, 1)] == ["<answer>3</answer>", "None."]
    assert len(read_question(SHAREGPT, 1, {}).turns) == 3
    with_history = {**ALPACA, "history": [["<image>Hot?", "No."]], "instruction": "Describe it."}
    assert count_questions(with_history) == 2
    assert read_question(with_history, 1, {}).turns[0] == ("user", "<image>Hot?")


@pytest.mark.parametrize(
    "record",
    [
        {**MESSAGES, "messages": [{"role": "observation", "content": "1"}, *MESSAGES["messages"]]},
        {**ALPACA, "history": [["Hot?"]]},
    ],
)
def test_other_turns_are_refused(record):
    with pytest.raises(RowError, match="a conversation must be a list of"):
        read_question(record, 0, {})


TURNS = MESSAGES["messages"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**ALPACA, "input": 5}, "input must be a text; got 5"),
        ({**ALPACA, "input": ["x"]}, "input must be a text; got ['x']"),
        ({**MESSAGES, "system": 5}, "every turn of a conversation needs a text"),
        ({**ALPACA, "history": [["Hot?", 5]]}, "every turn of a conversation needs a text"),
        ({**MESSAGES, "messages": [{"role": "system", "content": "S"}, *TURNS]}, "got a second one"),
        ({**MESSAGES, "tools": '[{"name": "f"}]'}, "tools are not read"),
        ({**MESSAGES, "messages": [TURNS[0], {**TURNS[1], "tool_calls": [{"id": "1"}]}]}, "tools are not read"),
        ({**MESSAGES, "label": False}, "label=False marks a response that must not be trained on"),
        ({**SHAREGPT, "kto_tag": False}, "kto_tag=False marks"),
        ({**MESSAGES, "messages": [TURNS[0], {**TURNS[1], "weight": 0}]}, "weight=0 marks"),
    ],
)
def test_what_would_be_ignored_is_refused(record, message):
    count_questions(record)  # does not raise: the question does
    with pytest.raises(RowError) as refused:
        read_question(record, 0, {})
    assert message in str(refused.value)


@pytest.mark.parametrize("more", [{"tools": "[]"}, {"tools": []}, {"label": True}, {"system": None}, {"system": ""}])
def test_what_says_nothing_is_read(more):
    assert read_question({**MESSAGES, **more}, 0, {}).said == MESSAGES["messages"][1]["content"]


def test_a_question_has_the_images_of_its_turns_and_of_those_before_it():
    turns = [
        ("human", "<image>A?"),
        ("gpt", "a"),
        ("human", "<image><image>B?"),
        ("gpt", "b"),
        ("human", "C?"),
        ("gpt", "c"),
    ]
    record = {
        "conversations": [{"from": role, "value": text} for role, text in turns],
        "images": ["1.png", "2.png", "3.png"],
    }
    counts = [len(read_question(record, number, {}).images) for number in range(count_questions(record))]
    assert counts == [1, 3, 3]
    assert read_question(record, 0, {}).images == ("1.png",)
    record["images"].pop()
    assert len(read_question(record, 0, {}).images) == 2, "tags and images differ in number: place_markers refuses it"


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    return tmp_path


def rows_of(file):
    reading = read_prompts(
        [str(file)],
        None,
        lambda prompt: None,
        read_json=lambda file, root: read_json_rows(file, root, responses=True),
        needs_response=True,
    )
    return reading.rows


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
def test_both_kinds_of_file_give_a_row_for_every_answer(folder, name):
    records = [SHAREGPT, MESSAGES, ALPACA]
    text = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    (folder / name).write_text(text)
    rows = rows_of(folder / name)
    assert [problem for row in rows for problem in row.problems] == []
    assert [row.prompt.response for row in rows] == [
        "<answer>3</answer>", "None.", "<think>The second.</think><answer>B</answer>", "Cold.",
    ]  # fmt: skip
    assert [len(row.sources) for row in rows] == [1, 1, 2, 1]
    assert [message.role for message in rows[1].prompt.messages] == ["user", "assistant", "user"]


def test_rows_are_named_by_their_line_and_question(folder):
    """Blank lines count, also in front of the first record."""
    first = {**SHAREGPT, "conversations": [*SHAREGPT["conversations"], *SHAREGPT["conversations"][2:]]}
    (folder / "chat.jsonl").write_text("\n".join(["", *map(json.dumps, [first, {**ALPACA, "images": []}, ALPACA])]))
    rows = rows_of(folder / "chat.jsonl")
    names = [row.label.removeprefix(f"{folder}/") for row in rows]
    questions = [f"chat.jsonl:1, question {number}" for number in (1, 2, 3)]
    assert names == [*questions, "chat.jsonl:2", "chat.jsonl:3"]
    assert [row.problems[0].row.removeprefix(f"{folder}/") for row in rows if row.problems] == ["chat.jsonl:2"]
    assert len({row.prompt.prompt_id for row in rows if row.prompt}) == 4
    assert sorted(names, key=lambda name: _place(name, ["chat.jsonl"])) == names, "mars check sorts by it"


def test_a_row_that_cannot_be_used_says_why(folder):
    wrong = [
        {**MESSAGES, "images": ["a.png"]},
        {**ALPACA, "images": ["c.png"]},
        {**MESSAGES, "messages": MESSAGES["messages"][:1]},
        {**ALPACA, "videos": ["v.mp4"]},
    ]
    (folder / "chat.json").write_text(json.dumps(wrong))
    rows = rows_of(folder / "chat.json")
    assert [row.problems[0].reason for row in rows] == ["sources", "image_missing", "prompt", "video"]
    assert "1 images, but the text has the tags <image>, <image>" in rows[0].problems[0].detail
    assert "must have an answer (gpt) after each question (human)" in rows[2].problems[0].detail


def test_a_file_has_the_prompts_that_it_has_after_conversion(folder):
    texts = [
        "<image><image>What is it? ",
        "<image><image>\nWhich?\nA. cat\nB. dog",
        "<image><image> one? Options: cat, dog.",
    ]
    records = [{**MESSAGES, "messages": [{"role": "user", "content": text}, TURNS[1]]} for text in texts]
    (folder / "chat.json").write_text(json.dumps(records))
    run_convert(folder / "out", "jsonl", folder / "chat.json", "--image-root", folder)
    converted = read_prompts(
        [str(folder / "out" / "chat.parquet")], str(folder), lambda _: None, read_json=read_json_rows
    )
    assert [row.prompt.messages for row in rows_of(folder / "chat.json")] == [
        prompt.messages for prompt in converted.usable
    ]


def test_converted_conversations_have_responses(folder):
    (folder / "chat.json").write_text(json.dumps([MESSAGES, ALPACA]))
    run_convert(folder / "out", "jsonl", folder / "chat.json", "--image-root", folder)
    reading = read_prompts(
        [str(folder / "out" / "chat.parquet")], str(folder), lambda prompt: None, read_json=read_json_rows
    )
    assert [prompt.response for prompt in reading.usable] == ["<think>The second.</think><answer>B</answer>", "Cold."]


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize(
    "bad",
    [
        b"{bad",
        b'{"x": 1}',
        b"7",
        b'{"messages": null}',
        b'{"prompt": null}',
        b'{"messages": []}',
        b'{"prompt": ""}',
        b'{"messages": [], "images": "\xe9"}',
    ],
)
def test_a_bad_line_leaves_the_good_rows_wherever_it_stands(folder, bad, place):
    plain = {"prompt": "<image>How many?", "images": ["a.png"], "answer": "3", "response": "<answer>3</answer>"}
    for row in (SHAREGPT | {"conversations": SHAREGPT["conversations"][:2]}, MESSAGES, ALPACA, plain):
        lines = [b"", *[json.dumps(row).encode()] * 3]
        lines.insert(place, bad)
        (folder / "chat.jsonl").write_bytes(b"\n".join(lines))
        rows = rows_of(folder / "chat.jsonl")
        assert [row.label.rpartition(":")[2] for row in rows if row.problems] == [str(place)]
        assert sum(row.prompt is not None for row in rows) == 3


def test_the_kind_of_a_file_is_decided_by_its_first_row_with_a_question(folder, monkeypatch):
    """A large file is not parsed twice: no line behind this row is read."""
    (folder / "chat.jsonl").write_text("\n".join(["", "{bad", json.dumps(ALPACA), json.dumps(ALPACA)]))
    parsed = []
    monkeypatch.setattr(files, "load_unicode", lambda line: parsed.append(line) or load_unicode(line))
    assert files._has_conversations(str(folder / "chat.jsonl"))
    assert [line[:4] for line in parsed] == [b"{bad", b'{"in']


def test_mono_responses_are_read_and_converted(folder):
    own = {"view_1": "Cold.", "view_2": "Warm."}
    row = {
        "prompt": [TURNS[0]],
        "images": MESSAGES["images"],
        "answer": "B",
        "response": "B",
        "mono_responses": {"view_2": "Warm, \u00e9."},
    }
    several = {**SHAREGPT, "mono_responses": {"image": "x"}}
    (folder / "chat.json").write_text(json.dumps([{**MESSAGES, "mono_responses": own}, ALPACA, row]))
    (folder / "bad.json").write_text(json.dumps([several]))
    run_convert(folder / "out", "jsonl", folder / "chat.json", "--image-root", folder)
    converted = read_prompts(
        [str(folder / "out" / "chat.parquet")], str(folder), lambda _: None, read_json=read_json_rows
    )
    for prompts in (converted.usable, [row.prompt for row in rows_of(folder / "chat.json")]):
        assert [prompt.mono_responses for prompt in prompts] == [own, {}, row["mono_responses"]]
    assert {row.problems[0].detail for row in rows_of(folder / "bad.json")} == {
        "mono_responses belong to one answer, but the conversation has several; divide it"
    }


def test_a_set_without_mono_responses_has_no_column_for_them(folder):
    """The file's bytes make the ids of its rows, and so the seeds of what is sampled for them."""
    (folder / "chat.json").write_text(json.dumps([MESSAGES, ALPACA]))
    run_convert(folder / "out", "jsonl", folder / "chat.json", "--image-root", folder)
    columns = pq.read_schema(folder / "out" / "chat.parquet").names
    assert columns == ["data_source", "prompt", "images", "reward_model", "extra_info", "response"]
