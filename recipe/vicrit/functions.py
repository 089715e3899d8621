"""The reward of ViCrit: find the wrong words of a description, in rows of `mars data build caption_swap`.

reward.function: recipe/vicrit/functions.py:span
"""

from __future__ import annotations

from mars.errors import DataError
from mars.rewards.parsing import format_score, parse_response
from mars.types import RewardInput, RewardResult

MAX_CHARS = 300
BOX = "\\boxed{"
MARKS = " \t\n\r.,;:!?\"'`*“”‘’()[]"


def span(item: RewardInput) -> RewardResult:
    """score = exact (0 or 1) + format (0 to 0.5). accuracy: exact.

    The truth is the wrong words of the description. parts: exact, 1 if the answer is these words; first_word, 1 if it
    has the first of them, as in the public code's evaluation; format, 0.25 for a think and 0.25 for an answer.
    Raises DataError for a truth without words.
    """
    check_span(item.truth)
    response = parse_response(item.response)
    given, wanted = words_of(answer_text(response.answer)), words_of(item.truth)
    exact = float(bool(given) and given == wanted)
    form = format_score(response, wants_fence=False)
    parts = {"exact": exact, "first_word": float(wanted[0] in given), "format": form}
    return RewardResult(score=exact + form, accuracy=exact, parts=parts)


def check_span(truth: str, extra_info: object = None, truth_size: object = None) -> None:
    """Raises DataError for a truth without words."""
    if not words_of(truth):
        raise DataError(f"truth: got {truth[:80]!r}; want the wrong words of the description")


def answer_text(answer: str | None) -> str:
    """The text in \\boxed{} if the answer has one box, else the answer. "" without an answer, or if the answer
    has more than 300 characters.

    >>> answer_text("It is \\\\boxed{red}."), answer_text("red")
    ('red', 'red')
    """
    if answer is None or len(answer) > MAX_CHARS:
        return ""
    _, box, rest = answer.partition(BOX)
    inside, end, _ = rest.partition("}")
    return inside if box and end and BOX not in rest else answer


def words_of(text: str) -> list[str]:
    """The words in small letters, without quotes and punctuation around them.

    >>> words_of('"The red  car."')
    ['the', 'red', 'car']
    """
    return [word for word in (part.strip(MARKS) for part in text.lower().split()) if word]
