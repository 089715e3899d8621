"""Choices as public files write them: in the text, beside it, and as an answer."""

from __future__ import annotations

import json
import re
import time
from string import ascii_lowercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.rows.choices import (
    choices_in_text,
    clear_letter,
    letter_of,
    listed,
    options_of,
    plain_choices,
    with_plain_choices,
)
from mars.data.rows.problems import RowError
from mars.rewards.functions import check_truth
from mars.rewards.vqa import normalise, read_choices, score_vqa
from mars.types import RewardInput
from tests.builders import load_prompts
from tests.examples import examples

THREE = ["not the same", "Travel", "Law"]
SPELLINGS = [
    "Choice list : [A. not the same, B. Travel, C. Law].",
    "Choice list:[A. not the same, B. Travel, C. Law]. Answer with the option's letter. Your answer is:",
    "Choice list : [A. not the same, B. Travel, C. Law]. Answer with a letter in brackets, [letter].",
    "choice list : [a. not the same, b. Travel, c. Law]",
    "Choice List : [(A) not the same, (B) Travel, (C) Law]",
    "Choice list : [A) not the same, B) Travel, C) Law]",
    "Choice list : [A: not the same, B: Travel, C: Law]",
    "Choice list : [A.not the same, B.Travel, C.Law]",
    "Choice list : [A. not the same; B. Travel; C. Law]",
    "Choice list:[A. not the same | B. Travel | C. Law]",
    "Choice list :\n[A. not the same,\nB. Travel,\nC. Law]",
    "Choice list: \nA. not the same\nB. Travel\nC. Law\nYour answer is:",
    "Choice list : ['A. not the same', 'B. Travel', 'C. Law'] Your answer is:",
    "Choices: A. not the same B. Travel C. Law",
    "Options: (A) not the same (B) Travel (C) Law",
    "Options:\nA. not the same\nB. Travel\nC. Law\nAnswer with the option's letter from the given choices directly.",
    "A. not the same\nB. Travel\nC. Law\nPlease answer with the letter.",
    "\n(A) not the same\n(B) Travel\n(C) Law",
    "(A) not the same (B) Travel (C) Law",
    "A. not the same, B. Travel, C. Law",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("question", ["Which? ", "You must choose from the Choice List. Question: by J. A. Poe?\n"])
def test_spellings(spelling, question):
    found = choices_in_text(question + spelling, "B")
    assert found.options == THREE
    assert found.lettered
    assert options_of(question + spelling, "C") == THREE
    start, end = found.span
    shown = (question + spelling)[start:end]
    assert shown.lstrip("[('\"").lower().startswith("a")
    assert shown.rstrip("])'\"").endswith("Law")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Choice list : [A. D. H. Lawrence, B. no, C. Poe, Edgar].", ["D. H. Lawrence", "no", "Poe, Edgar"]),
        ("Choice list : [A. Health, Law & Art, B. Arts [2nd ed.], C].", ["Health, Law & Art", "Arts [2nd ed.], C"]),
        ("Choice list : [A. Law, B. Arts [2nd ed.]]. Use [A] or [B].", ["Law", "Arts [2nd ed.]"]),
        ('Choice list : [A. "Law", B. Poe\'s \'X\', C. (1st)].', ['"Law"', "Poe's 'X'", "(1st)"]),
        ("Choice list : [A. Inc. BarCharts, B. MS  CPC  CCS-P].", ["Inc. BarCharts", "MS  CPC  CCS-P"]),
        ("Choice list : [A. x, B. y]. Choice list : [A. z, B. w].", ["z", "w"]),
        ("Choice list : [A. 2015, B. 2016].", ["2015", "2016"]),
    ],
)  # fmt: skip
def test_options_with_commas_brackets_quotes_and_initials(text, options):
    assert choices_in_text(text, "A").options == options


def test_a_list_without_letters():
    text = "How many? Choice List:['0','1', 'Poe's'] Your answer is:"
    found = choices_in_text(text, "1")
    assert (found.options, found.lettered) == (["0", "1", "Poe's"], False)
    assert text[slice(*found.span)] == "['0','1', 'Poe's']"
    assert options_of(text, "1") is None  # the answer is a text, and the model sees no letters
    assert options_of(text, "B") == ["0", "1", "Poe's"]
    # Where an option ends is anyone's guess.
    assert choices_in_text("Choice list : [Law, Health, Fitness & Dieting]", "A") is None


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("Is it open or closed?", "open"),
        ("Which vitamin? Vitamin A. B. Smith says C. is best.", "C"),
        ("Options: A. cat B. dog", "a horse"),
        ("Which? (A) cat (B) dog", "three"),
        ("Person A: who is that? Person B: nobody.", "Anna"),
        ("Choice list : [].", "A"),
        ("Choice list : [A. only one].", "A"),
        ("Choice list : [", "A"),
    ],
)
def test_no_choices(text, truth):
    assert choices_in_text(text, truth) is None


def test_a_choice_list_counts_even_where_the_truth_is_none_of_it():
    """So that the reward refuses the row, instead of asking for a text that was never offered."""
    assert choices_in_text("Choice list : [A. x, B. y].", "E").options == ["x", "y"]
    assert choices_in_text("Choice list : [A. x, B. y].", "z").options == ["x", "y"]
    assert choices_in_text("Options: A. x B. y", "E").options == ["x", "y"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("b", "B"), (" b ", "B"), ("B.", "B"), ("(B)", "B"), ("(b).", "B"), ("B:", "B"),
        ("B. Travel", "B"), ("B) travel", "B"), ("(B) Travel.", "B"), ("b: Travel", "B"),
        ("Travel", "B"), ("travel", "B"), ("Travel.", "B"), ("not  the same", "A"),
        ("C. Travel", "C. Travel"), ("E", "E"), ("Law or Travel", "Law or Travel"), ("It is B", "It is B"),
    ],
)  # fmt: skip
def test_letters_of_answers(answer, letter):
    assert letter_of(answer, THREE) == letter


def test_a_letter_is_a_letter_though_an_option_reads_so():
    assert letter_of("A", ["B", "A"]) == "A"
    assert letter_of("b", ["B vitamins", "A"]) == "B"


BLOOD = ["O", "A", "B", "AB"]


def test_a_text_that_is_another_options_letter_stays_what_it_is():
    """Beside the options, "A" is the blood type; as the letter of a list in the question it is the first option."""
    assert [letter_of(answer, BLOOD) for answer in ("O", "A. O", "AB", "A")] == ["O", "A. O", "AB", "A"]
    assert [clear_letter(answer, BLOOD) for answer in ("A", "(b)", "O", "AB")] == ["A. O", "B. A", "O", "AB"]
    assert [clear_letter(answer, THREE) for answer in ("A", "(b)", "Law")] == ["A", "(b)", "Law"]

    def right(answer, truth):
        text = f"<answer>{answer}</answer>"
        return score_vqa(RewardInput("test", None, text, truth, None, None, {"choices": BLOOD})).accuracy

    assert [right(answer, "A") for answer in ("A", "B. A", "O", "B")] == [1, 1, 0, 0]
    assert [right(answer, "O") for answer in ("O", "A. O", "A", "B")] == [1, 1, 0, 0]
    assert [right(answer, "A. O") for answer in ("A", "O", "A. O", "B", "B. A", "AB")] == [1, 1, 1, 0, 0, 0]


def test_the_letter_of_a_list_in_the_question_is_a_letter(tmp_path):
    text = "Which blood type? Choice list : [A. O, B. A, C. B, D. AB]."
    row = {"prompt": [{"role": "user", "content": text}], "images": [], "reward_model": {"ground_truth": "A"}}
    assert options_of(text, "A") == BLOOD
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    (prompt,) = load_prompts([str(file)], None, "error", lambda prompt: None).prompts
    assert check_truth("vqa", prompt.truth, prompt.extra_info) is None
    assert (prompt.truth, prompt.extra_info["choices"]) == ("A. O", BLOOD)


def test_choices_beside_the_text():
    pairs = list(zip("ABC", THREE, strict=True))
    for known in (
        THREE,
        [f"{a}. {c}" for a, c in pairs],
        dict(pairs),
        dict(reversed(pairs)),
        listed(THREE),
        str(THREE),
    ):
        assert plain_choices(known) == THREE
    assert plain_choices({"b": "x", "a": "y"}) == ["y", "x"]
    assert plain_choices([2, 3.5, "x"]) == ["2", "3.5", "x"]
    assert plain_choices(["A. Milne", "C. Lewis"]) == ["A. Milne", "C. Lewis"]
    assert plain_choices({"A": "x", "B": "y", "C": None}) == ["x", "y"]
    for none in (None, [], "", {}, {"A": None, "B": None}):
        assert plain_choices(none) is None
    for bad in (
        {"1": "x"},
        {"A": "x", "C": "y"},
        {"A": "x", "B": None, "C": "y"},
        ["x", ""],
        ["x", None],
        [True],
        7,
        "x, y",
        ["x"] * 27,
    ):
        with pytest.raises(RowError) as caught:
            plain_choices(bad)
        assert caught.value.reason == "choices"


def test_choices_of_a_row_are_parsed_once():
    """Each form that a row may have becomes the texts in the letters' order; what is none of them stays."""
    for form in (["A. red", "B. green or blue"], {"b": "green or blue", "a": "red"}, ("red", "green or blue")):
        parsed = with_plain_choices({"choices": form, "id": 7})
        assert parsed == {"choices": ["red", "green or blue"], "id": 7}
        assert with_plain_choices(parsed) == parsed
    for odd in ({"x": "red"}, 5, "red, green", ["red", None], [["red"], ["green"]]):
        assert with_plain_choices({"choices": odd}) == {"choices": odd}
    assert with_plain_choices({}) == {}
    assert with_plain_choices({"choices": []}) == {"choices": []}
    assert with_plain_choices({"choices": {"A": None}}) == with_plain_choices({"choices": ""}) == {"choices": None}
    assert "at most 26 texts" in check_truth("vqa", "A", with_plain_choices({"choices": ["A. red", "B."]}))


def scored_options(given):
    """The options that the vqa reward once parsed itself from what a row holds; None where it refused them."""
    if isinstance(given, dict):
        letters = sorted(given, key=str)
        if [str(letter).lower() for letter in letters] != list(ascii_lowercase[: len(letters)]):
            return None
        given = [given[letter] for letter in letters]
    labels = [re.match(r"\(?([a-z])[.:)]", option, re.IGNORECASE) for option in given]
    if all(labels) and [label[1].lower() for label in labels] == list(ascii_lowercase[: len(given)]):
        given = [option[label.end() :].strip() for option, label in zip(given, labels, strict=True)]
    return given if len(given) <= 26 and all(normalise(option) for option in given) else None


TEXT = st.sampled_from(["red", "the same", "A. Milne", "D. H. Lawrence", "B", "(c) x", "3", "", "?"])
LETTERED = st.lists(TEXT, max_size=5).flatmap(
    lambda texts: st.sampled_from(["{}. {}", "({}) {}", "{}) {}", "{}: {}", "{}.{}"]).map(
        lambda form: [form.format(letter, text) for letter, text in zip("ABCDE", texts, strict=False)]
    )
)
MAPPING = st.lists(TEXT, max_size=4).flatmap(
    lambda texts: st.permutations(list(zip("abcd" if len(texts) % 2 else "ABCD", texts, strict=False))).map(dict)
)


@examples(200)
@given(st.lists(TEXT, max_size=5) | LETTERED | MAPPING)
def test_a_row_is_scored_by_the_same_options_as_when_the_reward_parsed_them(given):
    expected = scored_options(given)
    if expected is not None:
        assert read_choices(with_plain_choices({"choices": given})) == tuple(expected)


OPTION = st.text(st.characters(codec="utf-8", exclude_characters="[]"), min_size=1, max_size=20).filter(
    lambda text: text.strip() and ", " not in text and "\n" not in text and text == " ".join(text.split())
)


@examples(100)
@given(st.lists(OPTION, min_size=2, max_size=26))
def test_what_is_listed_is_read(options):
    assert choices_in_text(f"Which? Choice list : {listed(options)}.", "A").options == options


@pytest.mark.parametrize(
    "text",
    [" " * 100_000 + "\n" * 100_000 + "(A) " * 20_000, "Choice list : [" * 10_000, "A. " * 50_000, "['" * 100_000,
     "Choice list : [A. " + " " * 50_000 + ", B. " * 50_000 + "]", "Choice list : ['" + "' " * 100_000,
     "Options: " * 20_000, "Options: A. x B. " + ". " * 100_000],
)  # fmt: skip
def test_no_text_takes_long(text):
    start = time.process_time()
    choices_in_text(text, "A")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("columns", ["verl", "easyr1"])
def test_rows_get_the_choices_that_only_their_text_has(tmp_path, columns):
    """Read from a file as it is: the reward takes the letter, the text, or both."""
    rows = [(f"Which? {spelling}", "B") for spelling in SPELLINGS] + [("Which? Options: A. x B. y", "y"), ("Who?", "B")]
    lines = [
        {"problem": text, "answer": truth}
        if columns == "easyr1"
        else {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": truth}}
        for text, truth in rows
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prompts = load_prompts([str(tmp_path / "rows.jsonl")], None, "error", lambda prompt: None).prompts
    assert [prompt.extra_info.get("choices") for prompt in prompts] == [THREE] * len(SPELLINGS) + [["x", "y"], None]

    def accuracy(prompt, answer):
        text = f"<think>.</think><answer>{answer}</answer>"
        return score_vqa(RewardInput("x", None, text, prompt.truth, None, None, prompt.extra_info)).accuracy

    for prompt in prompts[: len(SPELLINGS)]:
        assert [accuracy(prompt, answer) for answer in ("B", "(b)", "Travel", "B. Travel")] == [1] * 4
        assert [accuracy(prompt, answer) for answer in ("A", "Law", "A. Travel", "")] == [0] * 4
    assert [accuracy(prompts[-2], answer) for answer in ("y", "B", "x", "A")] == [1, 1, 0, 0]


def test_choices_of_the_row_come_before_those_of_its_text(tmp_path):
    row = {"problem": "Which? (A) x (B) y", "answer": "B", "extra_info": {"choices": ["u", "v"]}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (prompt,) = load_prompts([str(tmp_path / "rows.jsonl")], None, "error", lambda prompt: None).prompts
    assert prompt.extra_info["choices"] == ["u", "v"]
    row["extra_info"]["choices"] = {"A": "u", "B": "v"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (prompt,) = load_prompts([str(tmp_path / "rows.jsonl")], None, "error", lambda prompt: None).prompts
    assert prompt.extra_info["choices"] == ["u", "v"]
    row["extra_info"]["choices"] = []  # the row says that it has none
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (prompt,) = load_prompts([str(tmp_path / "rows.jsonl")], None, "error", lambda prompt: None).prompts
    assert prompt.extra_info["choices"] == []
