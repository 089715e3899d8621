"""recipe/satori_r1: the four parts by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from tests.shipped.recipes.recipe_files import item, module_of, reward_of

FACTS = {"caption": "the red car is here", "boxes": [[0, 0, 10, 20]]}
score = reward_of("satori_r1", "score")


def response(caption="the red car is here", boxes="[[0, 0, 10, 20]]", answer="red"):
    return f"<caption>{caption}</caption>\n<bbox>{boxes}</bbox>\n<answer>{answer}</answer>"


def parts(text, facts=FACTS, **changes):
    return dict(score(item(text, "red", facts, **changes)).parts)


def test_a_perfect_response():
    result = score(item(response(), "red", FACTS))
    assert result.parts == {"format": 1, "caption": 1, "box": 1, "answer": 1}
    assert (result.score, result.accuracy) == (4, 1)


def test_each_part_by_hand():
    found = parts(response("the red car stops here", "[[0, 0, 6, 10], [4, 0, 10, 10]]", "blue"))
    bleu = (4 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25  # as in tests/unit/rewards/test_metrics.py
    assert found == pytest.approx({"format": 1, "caption": (bleu + 4 / 5) / 2, "box": 0.5, "answer": 0})


def test_parts_count_without_the_form():
    found = parts("Well. " + response())
    assert found == {"format": 0, "caption": 1, "box": 1, "answer": 1}
    assert parts("<answer>red</answer><caption>the red car is here</caption>") == {
        "format": 0, "caption": 1, "box": 0, "answer": 1,
    }  # fmt: skip
    assert parts(response() + "<answer>red</answer>")["answer"] == 0, "two answers are none"
    assert parts("") == {"format": 0, "caption": 0, "box": 0, "answer": 0}


def test_boxes_are_scaled_to_the_stored_image():
    facts = FACTS | {"boxes": [[4, 8, 10, 20]]}
    assert parts(response(boxes="[[2, 2, 5, 5]]"), facts, truth_size=(20, 40), response_size=(10, 10))["box"] == 1


def test_a_caption_is_compared_in_words_and_signs():
    overlap = module_of("satori_r1").caption_overlap
    assert overlap("One person on a road.", "one person on a road.") == 1
    # BLEU has the words one person on a road . and one person , on a road: 5 of 6, 3 of 5 pairs, 1 of 4 triples,
    # 0.1 for 0 of 3 quadruples. ROUGE has the same 5 words on both sides.
    bleu = (5 / 6 * 3 / 5 * 1 / 4 * 0.1 / 3) ** 0.25
    assert overlap("One person on a road.", "one person, on a road") == pytest.approx((bleu + 1) / 2)


@pytest.mark.parametrize(
    ("boxes", "form"),
    [("[[0, 0, 10, 20]]", 1), (" [[1, 2]]\n", 1), ("", 0), ("hello", 0), ("[0, 0, 10, 20]", 0), ("[]", 0)],
)
def test_the_form_needs_a_list_of_lists(boxes, form):
    assert parts(response(boxes=boxes))["format"] == form


@pytest.mark.parametrize(
    ("boxes", "form", "box"),
    [("[]", 1, 1), ("", 0, 0), ("hello", 0, 0), ("[[0, 0, 10, 20]]", 1, 0), ("[[9, 9, 0, 0]]", 1, 0), ("[[1]]", 1, 0)],
)
def test_a_question_about_nothing_wants_an_empty_list(boxes, form, box):
    found = parts(response(boxes=boxes), FACTS | {"boxes": []})
    assert (found["format"], found["box"]) == (form, box)


@pytest.mark.parametrize("text", ["[[1, 2, 3]]", "none", "[[0, 0, 9, 9]]" * 200])
def test_boxes_that_cannot_be_read_cover_nothing(text):
    assert parts(response(boxes=text))["box"] == 0


@pytest.mark.parametrize(
    "facts",
    [
        {"caption": "a dog"},
        {},
        FACTS | {"caption": " "},
        FACTS | {"boxes": [[1, 2]]},
        FACTS | {"boxes": 3},
        FACTS | {"boxes": [[0, 0, 10**400, 1]]},
    ],
)
def test_a_row_without_facts_is_an_error(facts):
    for text in (response(), ""):
        with pytest.raises(DataError, match=r"extra_info\.(caption|boxes)"):
            parts(text, facts)


@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_a_caption_is_best_when_it_is_the_reference(reference, other):
    overlap = module_of("satori_r1").caption_overlap
    best = overlap(" ".join(reference), " ".join(reference))
    assert best == pytest.approx(1)
    assert 0 <= overlap(" ".join(other), " ".join(reference)) <= best + 1e-9
