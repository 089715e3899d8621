"""VQA: what counts as the same answer, alternatives, choices, yes and no, truths."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mars.data.rows.choices import with_plain_choices
from mars.errors import DataError
from mars.rewards.functions import check_truth
from mars.rewards.vqa import normalise, score_vqa
from mars.rewards.yes_no import yes_or_no
from mars.types import RewardInput
from tests.builders import make_item
from tests.examples import examples


@pytest.fixture(scope="session")
def is_right():
    """Whether an answer to a row with this `extra_info` is right."""

    def right(answer: str, truth: str, **extra_info) -> bool:
        extra_info = with_plain_choices(extra_info)  # as the reader of rows does
        result = score_vqa(make_item(f"<think>t</think><answer>{answer}</answer>", truth, **extra_info))
        assert result.accuracy == result.parts["accuracy"]
        assert result.score == result.parts["format"] + result.accuracy
        return result.accuracy == 1.0

    return right


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Red", "red"),
        ("  dark \n RED. ", "dark red"),
        ("The red car", "red car"),
        ("a dog on a leash", "dog on leash"),
        ("A", "a"),
        ("vitamin A", "vitamin a"),
        ("the a", "a"),
        ("Dunkin' Donuts", "dunkin donuts"),
        ("Dunkin’ Donuts!", "dunkin donuts"),
        ("twenty-one", "twenty one"),
        ("**red**", "red"),
        ("`red`", "red"),
        ("１２", "12"),  # full width
        ("ﬁne", "fine"),  # ligature
        ("Straße", "strasse"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("3-5", "3 5"),
        ("1,200", "1200"),
        ("1,2", "1 2"),
        ("$5", "$5"),
        ("50%", "50"),
        ("C++", "c++"),
        ("re\u200bd", "red"),
        ("cafe\u0301", "café"),
        ("?", "?"),
        ("", ""),
        (" \u200b\x00", ""),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


@examples(150)
@given(st.text(alphabet=st.sampled_from("aBthe the .,'-−5 0\u0301\u200bİßﬁ１%+"), max_size=14))
def test_case_blanks_and_a_final_stop_never_matter(text: str) -> None:
    normal = normalise(text)
    assert normalise(f"  {text}\n") == normal
    assert normalise(text.replace(" ", "  ")) == normal
    if any(char.isalnum() for char in normal):
        assert normalise(f"{text} .") == normal


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("red", "red", True),
        ("Red.", "red", True),
        ("the red", "red", True),
        ("dark red", "red", False),
        ("redd", "red", False),
        ("", "red", False),
        (" ", "red", False),
        ("r", "red", False),
        ("3", "three or 3", True),
        ("Three", "three or 3", True),
        ("three or 3", "three or 3", True),
        ("33", "three or 3", False),
        ("or", "three or 3", False),
        ("two", "three or 3", False),
        ("21", "twenty-one or 21", True),
        ("Twenty one", "twenty-one or 21", True),
        ("teal", "blue or green or teal", True),
        ("white and orange", "orange and white or white and orange", True),
        ("orange", "orange and white or white and orange", False),
        ("floor", "door or floor", True),  # "or" inside words is no alternative
        ("do", "door", False),
        ("-5", "5", False),
        ("35", "3.5", False),
        ("red", "<answer>red</answer>", True),
        ("red" + " " * 5000, "red", True),
        ("red " * 200, "red", False),
    ],
)
def test_free_answers(is_right, answer: str, truth: str, right: bool) -> None:
    assert is_right(answer, truth) is right


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("Yes", "yes", True),
        ("yes.", "Yes", True),
        ("No", "Yes", False),
        ("There is a person on the railing. Yes", "Yes", True),
        ("There is no person on the railing, so the answer is: no.", "No", True),
        ("No, wait: yes", "Yes", True),
        ("Yes, there is", "Yes", True),
        ("e", "yes", False),
        ("es", "yes", False),
        ("yesno", "no", False),
        ("unknown", "no", False),
        ("piano", "no", False),
        ("eyes", "yes", False),
        ("", "no", False),
        ("yes or no", "no", False),
        ("Yes or No.", "No", False),
        ("no or yes", "yes", False),
        ("yes/no", "no", False),
        ("yes no", "no", False),
        ("I see nothing at all here. " * 100 + "No", "no", True),
        ("none", "no or none", True),
        ("No.", "no or none", True),
        ("no-one", "no", False),
        ("No one", "no", False),
        ("nope", "no", False),
        ("know", "no", False),
        ("y", "yes", False),
        ("n", "no", False),
        ("yesyes", "yes", False),
        ("yes yes", "yes", True),
        ("yes and no", "yes", False),
        ("NO!!!", "no", True),
        ("**Yes**", "yes", True),
        ('"no"', "no", True),
        ("Yes\n", "yes", True),
        ("not", "no", False),
        ("0", "no", False),
        ("true", "yes", False),
        ("none", "no", False),
        ("eyes" + "." * 297, "yes", False),  # cut to its last 300 characters it would read "yes..."
        ("x" * 400 + " yes", "yes", True),
    ],
)
def test_yes_and_no(is_right, answer: str, truth: str, right: bool) -> None:
    assert is_right(answer, truth) is right


BOOKS = ["not the same", "Travel", "Religion & Spirituality", "Medical Books"]


@pytest.mark.parametrize("truth", ["D", "d", "(D)", "Medical Books", "D. Medical Books"])
@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("D", True),
        ("d", True),
        ("(D)", True),
        ("D.", True),
        ("**D**", True),
        ("Medical Books", True),
        ("medical books.", True),
        ("D. Medical Books", True),
        ("(D) medical books", True),
        ("D: Medical Books", True),
        ("B", False),
        ("Travel", False),
        ("B. Medical Books", False),  # letter and text disagree
        ("D. Travel", False),
        ("A, B, C, D", False),
        ("ABCD", False),
        ("cd", False),
        ("bcd", False),
        ("Medical", False),
        ("E", False),
        ("", False),
    ],
)
def test_multiple_choice(is_right, answer: str, truth: str, right: bool) -> None:
    assert is_right(answer, truth, choices=BOOKS) is right


def test_options_that_look_like_labels(is_right) -> None:
    authors = ["Dave Taylor", "not the same", "D. H. Lawrence", "A dog"]
    assert is_right("D. H. Lawrence", "C", choices=authors)
    assert is_right("C. D. H. Lawrence", "C", choices=authors)
    assert not is_right("D. H. Lawrence", "D", choices=authors)
    assert is_right("a dog", "D", choices=authors)
    assert not is_right("A", "D", choices=authors)
    assert is_right("B", "B", choices=["B", "A"])  # a letter is a letter
    assert not is_right("A", "B", choices=["B", "A"])
    assert is_right("A. the same", "A", choices=["the same", "same old"])
    assert not is_right("A. the same", "B", choices=["not the same", "the same"])


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("A", "A or C", True),
        ("C", "A or C", True),
        ("the same", "A or C", False),
        ("B", "A or C", False),
        ("A or C", "A or C", False),  # one answer, please
        ("not the same", "not the same or Travel", True),
        ("D. Medical Books", "B. Travel or D. Medical Books", True),
        ("B", "Travel or D", True),
        ("C", "Travel or D", False),
    ],
)
def test_alternatives_of_choices(is_right, answer: str, truth: str, right: bool) -> None:
    assert is_right(answer, truth, choices=BOOKS) is right


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("A", "A", True),
        ("yes", "A", True),
        ("A. Yes", "A", True),
        ("I see one, so yes", "A", True),
        ("I see one, so yes", "Yes", True),
        ("I see one, so no", "A", False),
        ("B", "A", False),
        ("yes or no", "A", False),
        ("unknown", "B", False),
        ("I see none at all. " * 50 + "No", "B", True),
        ("", "B", False),
    ],
)
def test_yes_and_no_as_choices(is_right, answer: str, truth: str, right: bool) -> None:
    assert is_right(answer, truth, choices=["Yes", "No"]) is right


WORDS = [
    "red",
    "Travel",
    "3",
    "twenty-one",
    "a",
    "the",
    "or",
    "yes",
    "no",
    "D",
    "B.",
    "(c)",
    "?",
    "-5",
    "é",
    "１",
    "",
    " ",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)


@pytest.mark.parametrize(
    ("answer", "said"),
    [("yes?", "yes"), ("A yes?", "yes"), ("the no ?", "no"), ("is it yes?", None), ("Was the no?", None)],
)
def test_an_article_makes_no_question_of_an_answer(answer, said):
    assert yes_or_no(answer) == said


@examples(300)
@given(TEXTS, TEXTS, st.none() | st.lists(TEXTS, max_size=4))
@example("a yes ?", "", None)
def test_a_truth_is_refused_or_answered_by_itself(truth: str, other: str, choices: list[str] | None) -> None:
    def accuracy(answer: str) -> float:
        text = f"<think>t</think><answer>{answer}</answer>"
        return score_vqa(RewardInput("test", None, text, truth, None, None, {"choices": choices})).accuracy

    if check_truth("vqa", truth, {"choices": choices}) is not None:
        with pytest.raises(DataError):
            accuracy(other)
        return
    assert accuracy("") == accuracy("\u200b \n") == 0.0
    assert accuracy(other) in (0.0, 1.0)
    if not choices and " or " not in f" {truth} ":
        assert accuracy(truth) == 1.0
        assert accuracy(other) == float(normalise(other) == normalise(truth)) or {"yes", "no"} & {normalise(truth)}


@pytest.mark.parametrize(
    "choices",
    [
        ["A. red", "B. green or blue"],
        ["red", "green or blue"],
        ("red", "green or blue"),
        {"A": "red", "B": "green or blue"},
        {"b": "green or blue", "a": "red"},
    ],
)
def test_ways_to_write_choices(is_right, choices) -> None:
    assert is_right("B", "B", choices=choices)
    assert is_right("green or blue", "B", choices=choices)
    assert not is_right("green", "B", choices=choices)  # " or " inside an option is its text
    assert not is_right("A", "B", choices=choices)


@pytest.mark.parametrize("choices", [None, [], ()])
def test_no_choices(is_right, choices) -> None:
    assert is_right("D.", "D", choices=choices)
    assert not is_right("C", "D", choices=choices)


def test_choices_from_an_array(is_right) -> None:
    numpy = pytest.importorskip("numpy")
    assert is_right("travel", "B", choices=numpy.array(BOOKS))


@pytest.mark.parametrize(
    ("truth", "choices", "fragment"),
    [
        ("", None, "empty"),
        ("  ", None, "empty"),
        ("<answer></answer>", None, "empty"),
        ("\u200b", None, "empty"),
        ("x" * 400, None, "longer than"),
        ("[[0, 0, 5, 5]]", None, "boxes are for grounding"),
        ("<answer>[]</answer>", None, "boxes are for grounding"),
        ('{"bbox_2d": [0, 0, 5, 5]}', BOOKS, "boxes are for grounding"),
        ("three or ", None, "alternative"),
        ("or 3", None, "alternative"),
        ("yes or no", None, "both yes and no"),
        ("E", BOOKS, "neither a letter A-D nor an option"),
        ("A or E", BOOKS, "neither a letter A-D nor an option"),
        ("A or", BOOKS, "neither a letter A-D nor an option"),
        ("Cooking", BOOKS, "'Cooking'"),
        ("A", "red, green", "extra_info.choices"),
        ("A", ["red", ""], "extra_info.choices"),
        ("A", ["red", 3], "extra_info.choices"),
        ("A", {"x": "red"}, "extra_info.choices"),
        ("A", 5, "extra_info.choices"),
        ("A", [str(number) for number in range(30)], "at most 26 texts"),
        ("A", ["red", "x" * 400], "1 to 300 characters"),
    ],
)
def test_malformed_truths_are_named(truth: str, choices, fragment: str) -> None:
    problem = check_truth("vqa", truth, {"choices": choices})
    assert problem is not None
    assert fragment in problem
    for response in ("<answer>A</answer>", ""):
        with pytest.raises(DataError):
            score_vqa(make_item(response, truth, choices=choices))


@pytest.mark.parametrize(
    "truth", ["Yes", "no", "three or 3", "twenty-one or 21", "dunkin donuts", "A", "or", "red", "[sic]", "]["]
)
def test_good_truths_pass(truth: str) -> None:
    assert check_truth("vqa", truth, {}) is None


def test_only_the_answer_is_searched() -> None:
    assert score_vqa(make_item("<think>yes</think> yes", "yes")).score == 0.25
    assert score_vqa(make_item("<think>t</think><answer>no</answer> yes", "yes")).score == 0.5
    assert score_vqa(make_item("<think>t</think><answer>yes</answer>", "yes")).score == 1.5
    assert score_vqa(make_item("<answer>yes</answer>", "yes")).score == 1.25
