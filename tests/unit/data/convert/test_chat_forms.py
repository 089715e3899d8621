"""Rows of LLaMA-Factory: conversations, messages and Alpaca, with the response for the cold start."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mars.data.convert.eval_json import read_json_rows
from mars.data.convert.forms import count_questions, read_question
from mars.data.rows.dataset import read_prompts
from mars.data.rows.problems import RowError
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


def test_converted_conversations_have_responses(folder):
    (folder / "chat.json").write_text(json.dumps([MESSAGES, ALPACA]))
    run_convert(folder / "out", "jsonl", folder / "chat.json", "--image-root", folder)
    reading = read_prompts(
        [str(folder / "out" / "chat.parquet")], str(folder), lambda prompt: None, read_json=read_json_rows
    )
    assert [prompt.response for prompt in reading.usable] == ["<think>The second.</think><answer>B</answer>", "Cold."]
