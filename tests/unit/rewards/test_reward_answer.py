"""Parsing of model text: the corpus of bad texts, the format score, and the time any text may take."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from mars.rewards.box_answers import read_boxes
from mars.rewards.functions import load_reward
from mars.rewards.grounding import score_grounding, score_grounding_compat
from mars.rewards.parsing import format_score, parse_response
from mars.rewards.vqa import score_vqa
from mars.types import RewardInput
from tests.examples import examples

CORPUS = sorted((Path(__file__).parents[2] / "bad" / "model_texts").glob("*.json"))
TRUTHS = {"grounding": "[[0, 0, 10, 10]]", "vqa": "yes"}
REWARDS = [(name, scorer) for name in TRUTHS for scorer in ("strict", "compat")]
MAX_CHARS = 32_000
MAX_SECONDS = 0.010


def corpus_text(case: dict[str, Any]) -> str:
    if "text" in case:
        return case["text"]
    recipe = case["generate"]
    return recipe["before"] + recipe["unit"] * recipe["times"] + recipe["after"]


def item(response: str, truth: str, **extra_info: Any) -> RewardInput:
    return RewardInput("test", None, response, truth, None, None, extra_info)


def seconds(scorer: Any, of: RewardInput) -> float:
    """The best of up to five runs of this thread's own time: other processes on the machine must not fail the test."""
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        scorer(of)
        best = min(best, time.thread_time() - start)
        if best < MAX_SECONDS / 2:
            break
    return best


def test_the_corpus_is_there_and_small() -> None:
    assert len(CORPUS) >= 100
    assert all(path.stat().st_size < 2000 for path in CORPUS)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_bad_text_scores_what_the_corpus_says(path: Path) -> None:
    case = json.loads(path.read_text())
    for name, scorer in REWARDS:
        result = load_reward(name, scorer)(item(corpus_text(case), TRUTHS[name]))
        expected = case["expected"][name]
        assert (result.parts["format"], result.accuracy) == (expected["format"], expected["accuracy"]), name
        compat = expected.get("compat", expected["accuracy"])  # the corpus names it where the two scorers differ
        earned = compat if scorer == "compat" else expected["accuracy"]
        assert result.score == expected["format"] + earned, (name, scorer)
        assert result.failed is None


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_bad_text_takes_no_time(path: Path) -> None:
    text = corpus_text(json.loads(path.read_text()))
    for name, scorer in REWARDS:
        assert seconds(load_reward(name, scorer), item(text, TRUTHS[name])) < MAX_SECONDS


# What parsers stumble over: tags and parts of tags, fences, brackets, numbers, words, characters that are no letters.
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<", "</", "```json", "```", "`"]
JSON_PIECES = [
    "[",
    "]",
    "{",
    "}",
    '"',
    "\\",
    "[1,2,3,4],",
    '{"bbox_2d":[1,2,3,4]},',
    '{"a":',
    "9",
    "1e9,",
    "-.",
    "NaN,",
]
WORDS = [" ", "\n", "a ", "or ", "yes ", "A. ", "(", "'", "9,999"]
ODD = ["\u0301\u0327", "\ufdfa", "\ud800", "\x00", "\u200b", "\ufeff", "İ"]
UNITS = st.text(max_size=6) | st.sampled_from([*TAGS, *JSON_PIECES, *WORDS, *ODD])
FRAMES = st.sampled_from(
    [
        ("", ""),
        ("<think>", "</think><answer>yes</answer>"),
        ("<think>x</think><answer>", "</answer>"),
        ("<think>x</think><answer>```json\n[", "]\n```</answer>"),
        ("<answer>```json\n", "[1,2,3,4]]\n```</answer>"),
    ]
)


TIMED_ITEMS = [
    ("grounding", "[[0, 0, 10, 10], [20, 20, 30, 30]]", {}),
    ("grounding", json.dumps([[20 * number, 0, 20 * number + 15, 15] for number in range(100)]), {}),
    ("vqa", "yes", {}),
    ("vqa", "three or 3", {}),
    ("vqa", "1/2", {}),
    ("vqa", "A", {"choices": ["Yes", "No"]}),
    ("vqa", "B", {"choices": ["a dog", "D. H. Lawrence", "the same"]}),
]


def assert_quick(text: str) -> None:
    assert len(text) <= MAX_CHARS
    for name, truth, extra_info in TIMED_ITEMS:
        for scorer in ("strict", "compat"):
            taken = seconds(load_reward(name, scorer), item(text, truth, **extra_info))
            assert taken < MAX_SECONDS, f"{name}, {scorer}: {taken * 1000:.1f} ms for {text[:80]!a}"


def filled(before: str, unit: str, after: str) -> str:
    """As many units as fit between the two."""
    return before + unit * ((MAX_CHARS - len(before) - len(after)) // len(unit)) + after


@examples(100, suppress_health_check=[HealthCheck.too_slow])
@given(FRAMES, st.lists(UNITS, min_size=1, max_size=4), st.lists(UNITS, max_size=2))
def test_32000_adversarial_characters_take_less_than_10_ms(
    frame: tuple[str, str], repeated: list[str], once: list[str]
) -> None:
    assert_quick(filled(frame[0] + "".join(once), "".join(repeated) or "x", frame[1]))


FENCED = ("<think>t</think><answer>```json\n", "\n```</answer>")
ANSWERED = ("<think>t</think><answer>", "</answer>")
FAMILIES = {
    "opening tags": filled("", "<think>", ""),
    "opening answers": filled("", "<answer>", ""),
    "opening, then closing": "<answer>" * 1900 + "</answer>" * 1800,
    "nested pairs": "<think><answer>" * 1000 + "</answer></think>" * 940,
    "pairs": filled("", "<think></think><answer></answer>", ""),
    "beginnings of tags": filled("", "</answe", ""),
    "tags that overlap": filled("", "<ans<answer>wer>", ""),
    "tags within a think": filled("<think>", "<answer>yes</answer>", "</think><answer>yes</answer>"),
    "unclosed answer": filled("<answer>", "yes ", ""),
    "unclosed fence": filled(ANSWERED[0], "```json\n[1,", ANSWERED[1]),
    "fence that never ends": filled(FENCED[0], "``", ANSWERED[1]),
    "backticks": filled(ANSWERED[0], "`", ANSWERED[1]),
    "open brackets": filled(FENCED[0], "[", FENCED[1]),
    "open brackets and quotes": filled(FENCED[0], '["', FENCED[1]),
    "objects": filled(FENCED[0], '{"a":', FENCED[1]),
    "deep and closed": FENCED[0] + "[" * 15_900 + "]" * 15_900 + FENCED[1],
    "wide and shallow": filled(FENCED[0] + "[", "[],", "[]]" + FENCED[1]),
    "just below the nesting limit": filled(FENCED[0] + "[", "[" * 30 + "]" * 30 + ",", "[]]" + FENCED[1]),
    "digits": filled(FENCED[0] + "[[0,0,", "9", ",1]]" + FENCED[1]),
    "digits behind a point": filled(FENCED[0] + "[[0,0,1.", "9", ",1]]" + FENCED[1]),
    "exponent": filled(FENCED[0] + "[[0,0,1e", "9", ",1]]" + FENCED[1]),
    "numbers": filled(FENCED[0] + "[", "1,", "1]" + FENCED[1]),
    "huge numbers": filled(FENCED[0] + "[", "1e308,", "1]" + FENCED[1]),
    "boxes": filled(FENCED[0] + "[", "[1,2,3,4],", "[1,2,3,4]]" + FENCED[1]),
    "as many boxes as are looked at": FENCED[0] + json.dumps([[0, 0, 10 + k, 10] for k in range(101)]) + FENCED[1],
    "as many boxes for a crowd": FENCED[0] + json.dumps([[0, 0, 10 + k, 10] for k in range(200)]) + FENCED[1],
    "malformed boxes": filled(FENCED[0] + "[", "[4,3,2,1],NaN,", "true]" + FENCED[1]),
    "long string": filled(FENCED[0] + '["', "x", '"]' + FENCED[1]),
    "escapes": filled(FENCED[0] + '["', "\\ud800", '"]' + FENCED[1]),
    "line ends": filled(FENCED[0] + "[", "\n", FENCED[1]),
    "blanks": filled(ANSWERED[0], " ", ANSWERED[1]),
    "yes": filled(ANSWERED[0], "yes ", ANSWERED[1]),
    "yes or no": filled(ANSWERED[0], "yes or no ", ANSWERED[1]),
    "alternatives": filled(ANSWERED[0], "or ", ANSWERED[1]),
    "articles": filled(ANSWERED[0], "a ", ANSWERED[1]),
    "thousands": filled(ANSWERED[0], "9,999,", ANSWERED[1]),
    "labels": filled(ANSWERED[0], "(A) ", ANSWERED[1]),
    "accents": filled(ANSWERED[0], "\u0301\u0327", ANSWERED[1]),
    "accents on a letter": filled(ANSWERED[0] + "e", "\u0327\u0301\u0316", ANSWERED[1]),
    "characters that grow": filled(ANSWERED[0], "\ufdfa", ANSWERED[1]),
    "short characters that grow": ANSWERED[0] + "\ufdfa" * 300 + ANSWERED[1],
    "short accents": ANSWERED[0] + "\u0301\u0327" * 150 + ANSWERED[1],
    "hangul": filled(ANSWERED[0], "\u1100\u1161\u11a8", ANSWERED[1]),
    "NUL": filled(ANSWERED[0], "\x00", ANSWERED[1]),
    "surrogates": filled(ANSWERED[0], "\ud800", ANSWERED[1]),
    "invisible": filled(ANSWERED[0], "\u200b\ufeff", ANSWERED[1]),
    "escape sequences": filled(ANSWERED[0], "\x1b[2J", ANSWERED[1]),
}


PLAIN = ("<think>t</think><answer>```\n", "\n```</answer>")
SPELLINGS_OF_BOXES = [
    "'", "\"'", '"\\"', "“", "“bbox”,", "(", "()", "(1,2,3,4),", "[,", "[,]", ",\n", "[1,2,3,4]\n",
    "{'bbox':[1,2,3,4]}\n", '["1","2","3","4"],', "[[1,2],[3,4]],", "<box>", "<box></box>", "<box>(1,2),(3,4)</box>",
    "<|box_start|>", "<ref>a</ref>", "True ", "no person ", "there are no persons in the ", "] , [", "} {", "``` ",
    "```JSON\n", "Person 1: [1,2,3,4]\n",
]  # fmt: skip
SPELLINGS_OF_WORDS = [
    "\\boxed{", "\\text{a}", "\\frac{1}{2}", "{", "$", "$1$", "**B** ", "B, ", "B or ", "not yes, ", "yes there is ",
    "I cannot say no, ", "the answer is ", "so ", "the color of the ", "no a is ", "is the ", "1½", "50‰ ", "5m ",
    "3 cars ", "twenty ", "【B】", "isn't ", "B.\n",
]  # fmt: skip


def assert_quick_for(reward: str, text: str) -> None:
    score = load_reward(reward, "strict")
    for name, truth, extra_info in TIMED_ITEMS:
        if name == reward:
            taken = seconds(score, item(text, truth, **extra_info))
            assert taken < MAX_SECONDS, f"{truth!r}: {taken * 1000:.1f} ms for {text[:80]!a}"


@pytest.mark.parametrize(("before", "after"), [ANSWERED, FENCED, PLAIN, ("<answer>boxes: [", "]</answer>")])
def test_the_spellings_of_boxes_take_less_than_10_ms(before: str, after: str) -> None:
    for unit in SPELLINGS_OF_BOXES:
        assert_quick_for("grounding", filled(before, unit, after))


def test_the_spellings_of_words_take_less_than_10_ms() -> None:
    for unit in SPELLINGS_OF_WORDS:  # only a short answer is read word by word
        assert_quick_for("vqa", filled(ANSWERED[0], unit, ANSWERED[1]))
        assert_quick_for("vqa", ANSWERED[0] + (unit * 300)[:300] + ANSWERED[1])


@pytest.mark.parametrize("text", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_family_of_attacks_takes_less_than_10_ms(text: str) -> None:
    assert_quick(text)


def test_10000_boxes_take_less_than_10_ms_and_score_0() -> None:
    text = FENCED[0] + "[" + "[0,0,10,10]," * 9_999 + "[0,0,10,10]]" + FENCED[1]
    for name, scorer in REWARDS[:2]:
        score = load_reward(name, scorer)
        assert seconds(score, item(text, TRUTHS[name])) < MAX_SECONDS
        assert score(item(text, TRUTHS[name])).score == 0.75


@examples(200)
@given(FRAMES, st.lists(UNITS, max_size=12))
def test_any_text_scores_within_bounds_and_raises_nothing(frame: tuple[str, str], units: list[str]) -> None:
    text = frame[0] + "".join(units) + frame[1]
    grounding = score_grounding(item(text, TRUTHS["grounding"]))
    assert grounding.parts["format"] in (0.0, 0.25, 0.5, 0.75)
    assert 0.0 <= grounding.accuracy <= 1.0
    assert grounding.score == grounding.parts["format"] + grounding.parts["accuracy"]
    compat = score_grounding_compat(item(text, TRUTHS["grounding"]))
    assert 0.0 <= compat.parts["compat"] <= 1.0  # one true box: no bonus
    assert (compat.accuracy, compat.parts) == (grounding.accuracy, grounding.parts)
    assert compat.score == compat.parts["format"] + compat.parts["compat"]
    vqa = score_vqa(item(text, TRUTHS["vqa"]))
    assert vqa.parts["format"] in (0.0, 0.25, 0.5)
    assert vqa.accuracy in (0.0, 1.0)


def parse_boxes(text: str | None, limit: int) -> list[Any] | None:
    """The boxes of a text in a fence: None for an entry that is no box, None as a whole if there is no list."""
    if text is None:
        return None
    try:
        boxes = read_boxes(parse_response(f"<answer>```json\n{text}\n```</answer>"), limit)
    except ValueError:
        return None
    return [None if isinstance(box, str) else box for box in boxes]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["bbox_2d", "a"]), inner, max_size=2),
    max_leaves=12,
)


@examples(200)
@given(JSON)
def test_any_json_gives_proper_boxes_or_none(value: Any) -> None:
    boxes = parse_boxes(json.dumps(value), limit=3)
    for box in boxes or []:
        if box is not None:
            x1, y1, x2, y2 = box
            assert -1e6 <= x1 < x2 <= 1e6
            assert -1e6 <= y1 < y2 <= 1e6
    assert boxes is None or len(boxes) <= 3


@pytest.mark.parametrize(
    ("text", "with_fence", "without"),
    [
        ("<think>t</think><answer>```json\n[]\n```</answer>", 0.75, 0.5),
        ("<answer>```json\n[]\n```</answer><think>t</think>", 0.75, 0.5),
        ("<think>t</think>\n\n<answer>a</answer>\n", 0.5, 0.5),
        ("<think>t</think>", 0.25, 0.25),
        ("<answer>a</answer>", 0.25, 0.25),
        ("<think></think><answer>a</answer>", 0.25, 0.25),
        ("<think>t</think><think>t</think><answer>a</answer>", 0.25, 0.25),
        ("<think>t</think></think><answer>a</answer>", 0.25, 0.25),
        ("<think>t</think> ```json\n[]\n```", 0.25, 0.25),  # a fence outside the answer
        ("<answer>```json\n[]\n```\n```python\npass\n```</answer>", 0.5, 0.25),
        ("a", 0.0, 0.0),
    ],
)
def test_format_score_by_hand(text: str, with_fence: float, without: float) -> None:
    response = parse_response(text)
    assert format_score(response, wants_fence=True) == with_fence
    assert format_score(response, wants_fence=False) == without


def test_boxes_by_hand() -> None:
    assert parse_boxes('[{"bbox_2d": [1, 2.5, 3, 4e0], "label": "person", "score": 0.5}]', 9) == [(1.0, 2.5, 3.0, 4.0)]
    assert parse_boxes("[[1, 2, 3, 4], [5, 6, 7, 8]]", 9) == [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]
    assert parse_boxes('{"bbox_2d": [1, 2, 3, 4]}', 9) == parse_boxes("[1, 2, 3, 4]", 9) == [(1.0, 2.0, 3.0, 4.0)]
    assert parse_boxes("[]", 9) == []
    assert parse_boxes("[[1, 2, 3, 4], [3, 2, 1, 4], 7]", 9) == [(1.0, 2.0, 3.0, 4.0), None, None]
    assert parse_boxes("[[1, 2, 3, 4], [1, 2, 3, 4]]", 1) is None
    assert parse_boxes(None, 9) is parse_boxes("", 9) is parse_boxes("nothing", 9) is None


def test_rewards_import_neither_torch_nor_numpy() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'ray', 'transformers'}"
    modules = (
        "mars.rewards.contract, mars.rewards.functions, mars.rewards.pool, mars.rewards.worker, mars.rewards.local"
    )
    check = f"import sys, {modules}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0
