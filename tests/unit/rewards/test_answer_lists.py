"""Texts as models write them, each with what a careful human grader decides: tests/data/answers/*.jsonl.

A line is a truth, the choices (vqa), the text between the answer tags, and whether it is right. Each must come out so
through the whole path: choices as the reader of rows makes them, a whole response, the strict scorer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mars.data.rows.choices import with_plain_choices
from mars.rewards.functions import check_truth, load_reward
from mars.types import RewardInput

FOLDER = Path(__file__).parents[2] / "data" / "answers"


def rows_of(reward: str) -> list[dict[str, Any]]:
    files = sorted(FOLDER.glob(f"{reward}_*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def item(row: dict[str, Any], response: str) -> RewardInput:
    extra_info = with_plain_choices({"choices": row.get("choices", [])})
    return RewardInput("test", None, response, row["truth"], None, None, extra_info)


@pytest.mark.parametrize("reward", ["vqa", "grounding"])
@pytest.mark.parametrize("scorer", ["strict", "compat"])
def test_every_answer_is_graded_as_by_hand(reward: str, scorer: str) -> None:
    score = load_reward(reward, scorer)
    wrong = []
    for row in rows_of(reward):
        result = score(item(row, f"<think>t</think><answer>{row['answer']}</answer>"))
        if (result.accuracy == 1.0) != bool(row["right"]):
            wrong.append(f"{row['answer']!r} to {row['truth']!r} {row.get('choices', '')}: {result.accuracy}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("reward", ["vqa", "grounding"])
def test_there_are_enough_of_both(reward: str) -> None:
    rights = [row["right"] for row in rows_of(reward)]
    assert min(rights.count(0), rights.count(1)) >= 150
    assert rights.count(0) + rights.count(1) == len(rights)


def test_a_right_answer_stays_right_in_blanks_and_a_wrong_one_wrong() -> None:
    score = load_reward("vqa", "strict")
    for row in rows_of("vqa"):
        for framed in (f"\n{row['answer']}\n", f"  {row['answer']}  "):
            result = score(item(row, f"<answer>{framed}</answer>"))
            assert result.accuracy == row["right"], f"{framed!r} to {row['truth']!r}"


def test_the_words_of_the_answer_count_not_those_of_the_thought() -> None:
    score = load_reward("vqa", "strict")
    for row in rows_of("vqa"):
        if row["right"]:
            assert score(item(row, f"<think>{row['answer']}</think><answer></answer>")).accuracy == 0.0


@pytest.mark.parametrize(
    ("choices", "pair"),
    [
        (["C", "C#", "Java"], "A 'C' and B 'C#'"),
        (["x", "1/2", "1 2"], "B '1/2' and C '1 2'"),
        (["50%", "50‰"], "A '50%' and B '50‰'"),
        (["A-", "B", "A"], "A 'A-' and C 'A'"),
        (["red", "blue", "Red."], "A 'red' and C 'Red.'"),
        (["a dog", "the dog"], "A 'a dog' and B 'the dog'"),
        (["5 m", "5m"], "A '5 m' and B '5m'"),
        (["three", "3"], "A 'three' and B '3'"),
        (["0.5", ".50"], "A '0.5' and B '.50'"),
        (["same", "same"], "A 'same' and B 'same'"),
    ],
)
def test_options_that_read_alike_are_a_bad_row(choices: list[str], pair: str) -> None:
    problem = check_truth("vqa", "A", {"choices": choices})
    assert problem == f"extra_info.choices: two options read the same; got {pair}; want texts that differ"


@pytest.mark.parametrize(
    "choices",
    [
        ["O+", "O-", "AB+", "AB-"],
        ["-5", "5", "0.5"],
        ["not the same", "the same"],
        ["C", "C++", "D"],
        ["1/2", "2/1", "12"],
        ["5 m", "5 km", "15 m"],
        ["yes", "no", "not sure"],
        ["3", "13", "3.5", "3-4"],
        ["<5", ">5", "5"],
    ],
)
def test_options_that_differ_pass(choices: list[str]) -> None:
    assert check_truth("vqa", "A", {"choices": choices}) is None
