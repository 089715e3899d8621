"""Changed descriptions: one word of a kind becomes another that was not there, and the truth is the wrong word."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.build.captions import KINDS, fits, in_case_of, read_kinds, swaps
from mars.errors import DataError
from tests.examples import examples
from tests.unit.data.build.coloured import build, make_rows

CAPTION = "Two red cars stand on the left of a Red house, behind a blue-grey fence."


def test_what_can_be_swapped():
    found = swaps(CAPTION, {"colour": ["red", "blue", "grey", "green"], "side": ["left", "right"], "x": ["house"]})
    assert [(CAPTION[start:end], words, kind) for (start, end), words, kind in found] == [
        ("red", ["blue", "grey", "green"], "colour"),  # blue-grey is another word than blue and grey
        ("left", ["right"], "side"),
        ("Red", ["blue", "grey", "green"], "colour"),
    ]
    assert swaps("left and right", {"side": ["left", "right"]}) == [], "no other word of the kind is left"
    assert swaps("a redder credit", {"colour": ["red", "blue"]}) == []


def test_the_table():
    words = [word for kind in KINDS.values() for word in kind]
    assert len(words) == len(set(words))
    assert all(len(kind) > 1 and all(word == word.lower() for word in kind) for kind in KINDS.values())


@pytest.mark.parametrize(
    "text", ["a dog", "An elephant", "an apple", "a red ball", "an oval table", "an airplane", "a car", 'A "bus"']
)
def test_grammar_does_not_tell_the_wrong_word(text):
    """No word of the table has a silent h, or a vowel that is spoken as a consonant."""
    found = swaps(text, KINDS)
    assert found
    for (start, end), words, _ in found:
        for word in words:
            before = text[:start].rstrip(' "').split()
            if before and before[-1].lower() in ("a", "an"):
                assert (before[-1].lower() == "an") == (word[0] in "aeiou"), text[:start] + word + text[end:]


@pytest.mark.parametrize(
    ("before", "right", "wrong"),
    [
        (
            "a ",
            ["unicorn", "user", "European", "one-way street", "hat", "union"],
            ["hour", "apple", "umbrella", "heir"],
        ),
        ("an ", ["hour", "honest man", "umbrella", "uninvited guest", "usher"], ["university", "horse", "car"]),
        ("Vitamin A ", ["car"], []),
        ("a very ", ["old", "new"], []),
        ("banana ", ["apple", "car"], []),
        ("", ["apple", "car"], []),
    ],
)
def test_words_after_an_article(before, right, wrong):
    assert [word for word in right + wrong if fits(before, word)] == right


def test_a_word_of_capitals_stays_one():
    assert swaps("RED", {"colour": ["red", "blue"]}) == [((0, 3), ["blue"], "colour")]
    assert [in_case_of(right, "blue") for right in ("RED", "Red", "red", "R")] == ["BLUE", "Blue", "blue", "Blue"]


@pytest.mark.parametrize("column", ["answer", "response"])
def test_a_built_row(tmp_path, column):
    values = {column: CAPTION} if column == "answer" else {"answer": "yes", "response": CAPTION}
    options = [] if column == "answer" else ["--caption", "response"]
    rows = build(tmp_path / "out", "caption_swap", make_rows(tmp_path / "in", 3, **values), "--copies", "4", *options)
    assert len(rows) == 12
    for row in rows:
        changed, start, right = row["text"].splitlines()[2], row["origin"]["start"], row["origin"]["right"]
        wrong = row["truth"]
        assert changed[:start] + right + changed[start + len(wrong) :] == CAPTION
        assert changed[start:].startswith(wrong)
        assert wrong[0].isupper() == right[0].isupper()
        assert len([1 for place in swaps(changed, {"": [wrong.lower(), "…"]}) if place]) == 1, "it is there once"
        assert wrong.lower() in KINDS[row["origin"]["kind"]]
        assert row["text"].startswith("<image><image>\nThis is a description of what these images show")
    assert len({row["truth"] for row in rows}) > 4
    assert [row["extra_info"]["id"] for row in rows[:4]] == ["r0", "r0.2", "r0.3", "r0.4"]


@examples(50)
@given(st.lists(st.sampled_from([word for kind in KINDS.values() for word in kind] + ["and", "a", "."]), max_size=12))
def test_a_replacement_was_never_there(words):
    text = " ".join(words)
    for (start, end), others, kind in swaps(text, KINDS):
        assert text[start:end] in KINDS[kind]
        assert not set(others) & set(words)


def test_a_table_of_your_own(tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"vehicle": ["red cars", "fire engines"]}))
    rows = build(tmp_path / "out", "caption_swap", make_rows(tmp_path / "in", 2, answer=CAPTION), "--swaps", table)
    assert {row["truth"] for row in rows} == {"fire engines"}
    assert read_kinds(None) is KINDS
    for bad in (
        "[]",
        "{}",
        '{"a": "bc"}',
        '{"a": ["b"]}',
        '{"a": ["b", "B"]}',
        '{"a": ["b", ""]}',
        '{"a": ["b", 1]}',
        r'{"a": ["b", "\ud800"]}',
        "{",
    ):
        table.write_text(bad)
        with pytest.raises(DataError, match="--swaps: "):
            read_kinds(table)
    with pytest.raises(DataError, match="--swaps: "):
        read_kinds(tmp_path / "absent.json")


def test_rows_without_a_swap_are_left_out(tmp_path):
    source = make_rows(tmp_path / "in", 2, answer="nothing")
    source.write_text(source.read_text().replace("nothing", "a red car", 1))
    rows = build(tmp_path / "out", "caption_swap", source)
    assert [row["extra_info"]["id"] for row in rows] == ["r0"]
    metadata = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert metadata["splits"]["train"]["dropped"] == {"no_swap": 1}
    with pytest.raises(DataError, match="the row has no response, which --caption names"):
        build(tmp_path / "other", "caption_swap", source, "--caption", "response")
