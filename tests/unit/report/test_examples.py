"""Which questions the page of an evaluation shows."""

from __future__ import annotations

from mars.answers.record import Answer
from mars.report.examples import choose_examples, is_conflict
from mars.types import RewardResult


def answer(number, view, accuracy, failed=None, extra=None):
    return Answer(
        prompt_id=f"q{number}", number=number, row=f"f:{number}", data_source="d", view=view, sample=0, text="",
        truth="", truth_size=None, response_size=None, extra_info={}, extra=extra,
        reward=None if accuracy is None else RewardResult(accuracy, accuracy, {}, failed=failed),
    )  # fmt: skip


def question(number, multi, mono):
    return [answer(number, None, multi), answer(number, ("rgb",), mono)]


def test_a_conflict_compares_means():
    """Multi 0.5 on average; rgb 1 and 0: no conflict, though one of its answers is better. infrared 0.6: one."""
    multi = [answer(0, None, 0.0), answer(0, None, 1.0)]
    rgb = [answer(0, ("rgb",), 1.0), answer(0, ("rgb",), 0.0)]
    assert is_conflict([*multi, *rgb]) is False
    assert is_conflict([*multi, *rgb, answer(0, ("infrared",), 0.6)]) is True
    assert is_conflict([*multi, *rgb, answer(0, ("infrared",), 0.6, failed="boom")]) is False
    assert is_conflict([*multi, answer(0, ("rgb",), 1.0, extra="blind")]) is None
    assert is_conflict([answer(0, None, None), *rgb]) is None


def test_three_groups_give_the_same_number():
    """Questions 0 to 9 are conflicts of growing difference, 10 to 29 wrong without one, 30 to 69 right."""
    conflicts = [question(number, 0.0, (number + 1) / 10) for number in range(10)]
    wrong = [question(number, 0.0, 0.0) for number in range(10, 30)]
    right = [question(number, 1.0, 0.0) for number in range(30, 70)]
    answers = [item for group in (*right, *wrong, *conflicts) for item in group]
    chosen, said = choose_examples(answers, 9)
    assert [group[0].number for group in chosen] == [9, 8, 7, 10, 19, 29, 30, 49, 69]
    assert said == (
        "9 of 70 questions: 3 of 10 in which a single source does better than all together, the largest differences "
        "first; 3 of the 20 others with an accuracy below 50 %; 3 of the 40 with one of at least 50 %. "
        "--questions N shows more."
    )
    assert choose_examples(answers, 9) == (chosen, said)


def test_all_questions_if_there_are_few():
    chosen, said = choose_examples([*question(0, 1.0, 0.0), *question(1, 0.2, 0.1)], 24)
    assert [group[0].number for group in chosen] == [1, 0]
    assert "--questions" not in said


def test_answers_to_single_sources_alone():
    chosen, said = choose_examples([answer(0, ("rgb",), 0.7), answer(1, ("rgb",), 0.1)], 24)
    assert [group[0].number for group in chosen] == [1, 0]
    assert "0 of 0 in which a single source does better" in said
