"""Texts that may have boxes: every form that the reward reads, and coordinates outside of the answer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.rewards.box_answers import read_boxes
from mars.rewards.box_mentions import mentions_boxes
from mars.rewards.parsing import parse_response
from tests.examples import examples

FORMS = (
    '[{"bbox_2d": [1, 2, 30, 40]}]',
    '[{"x1": 1, "y1": 2, "x2": 30, "y2": 40}]',
    '[{"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}]',
    '{"x1": 1, "y1": 2, "x2": 30, "y2": 40}',
    "{'x2': 30, 'label': 'a dog', 'y1': 2, 'x1': 1, 'score': null, 'y2': 40}",
    '{\n        "x1":\n        1,\n        "y1": 2, "x2": 30, "y2": 40}',
    '[{"bbox_2d": ["1", "2", "30", "40"]}]',
    '["1, 2, 30, 40"]',
    '[{"bbox": "1, 2, 30, 40"}]',
    '[["1", "2"], ["30", "40"]]',
    '[1, "2", 30, 40]',
    "[[1e1, 2e1, 30, 40]]",
    "[1, 2e0, 30, 40]",
    "<box>1, 2, 30, 40</box>",
    "<box>(1,2),(30,40)</box>",
    "<|box_start|>1,2,30,40<|box_end|>",
    "[1, 2, 30, 40,]",
    '[".5", "2.", "30", "40"]',
    "[-0.5, 2, 30, 40]",
)
CORPUS = Path(__file__).parents[2] / "data" / "answers"


def boxes_in(text):
    try:
        return [box for box in read_boxes(parse_response(text), 1000) if not isinstance(box, str)]
    except ValueError:
        return []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", ["<think>t</think><answer>{}</answer>", "<answer>```json\n{}\n```</answer>"])
def test_every_form_that_the_reward_reads(form, around):
    text = around.replace("{}", form)
    assert boxes_in(text)
    assert mentions_boxes(text)


def test_every_box_of_the_corpus_of_answers():
    lines = [line for file in sorted(CORPUS.glob("grounding_*.jsonl")) for line in file.read_text().splitlines()]
    texts = [f"<answer>{json.loads(line)['answer']}</answer>" for line in lines]
    with_boxes = [text for text in texts if boxes_in(text)]
    assert len(with_boxes) > 100
    assert [text for text in with_boxes if not mentions_boxes(text)] == []


SIDE = st.integers(-9, 9) | st.floats(-1e3, 1e3, allow_nan=False) | st.integers(0, 99).map(str)
BOX = st.lists(SIDE, min_size=4, max_size=4)
NAMED = st.builds(
    lambda key, box, others: {**others, key: box}, st.sampled_from(["bbox_2d", "bbox", "box_2d"]), BOX,
    st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=3), max_size=2),
)  # fmt: skip


@examples(200)
@given(st.lists(BOX | NAMED, max_size=3), st.text(max_size=5), st.booleans())
def test_whatever_the_reward_reads_is_seen(entries, prose, ascii_only):
    text = f"{prose}<answer>{json.dumps(entries, ensure_ascii=ascii_only)}</answer>"
    assert not boxes_in(text) or mentions_boxes(text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>left 10, top 20, right 30, bottom 40</think><answer>yes</answer>",
        "x1=10 y1=20 x2=30 y2=40",
        "from 10, 20 to 30, 40",
        "<answer>0 0 8 8</answer>",
        "10px, 20px, 30px, 40px",
        "a person at (10, 20)",
        "[ 1.5 ,2 , 3,4 ]",
        "[-1, 3]",
        "1，2，30，40",
    ],
)
def test_coordinates_outside_of_a_list_and_in_a_users_form(text):
    assert mentions_boxes(text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>I see a dog.</think><answer>no</answer>",
        "three dogs [sic] (and 4 cats)",
        "1 dog, 2 cats, 3 birds and 4 cows",
        "2 people at 12:30",
        "<answer>[]</answer>",
        "<answer>3.5</answer>",
    ],
)
def test_texts_without_coordinates(text):
    assert not mentions_boxes(text)


def test_long_texts_take_no_time():
    started = time.thread_time()
    for piece in ("(1,", "[1 ", "1 ", "[1, 2, ", "[[[[", "(1.1.1.1", "9", "1e9,", "x1 ", "(,", "1" + " " * 39, "- "):
        mentions_boxes((piece * 32_000)[:32_000])
    assert time.thread_time() - started < 2
