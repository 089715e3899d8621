"""The reward of STAR-R1: which attributes of which objects differ between two images, with partial credit.

    reward.function: recipe/star_r1/functions.py:score

Truth and answer are JSON lists of [object, attribute, value], such as [["3", "color", "red"]].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from mars.errors import DataError
from mars.rewards.parsing import load_json, parse_response, read_blocks
from mars.types import RewardInput, RewardResult

Change = tuple[str, str, str]
"""Object, attribute, value; in small letters."""

MAX_EXTRA = 100  # an answer with more changes than this beyond the truth is not read, and costs as much as this many


@dataclass(frozen=True)
class Settings:
    """Amounts for a stated change: whole, if all three fields are right; attribute, if only object and attribute are;
    object, if only the object is.

    extra: for each stated change beyond the number of true ones. silent: if no change is stated. form: for think and
    answer, and nothing else.
    """

    whole: float
    attribute: float
    object: float
    extra: float
    silent: float
    form: float


PAPER = Settings(whole=5.0, attribute=1.5, object=0.5, extra=-1.0, silent=-1.0, form=1.0)


def score(item: RewardInput) -> RewardResult:
    """score = credit + penalty + format. accuracy: 1 if exactly the true changes are stated. Raises DataError."""
    true = true_changes(item.truth)
    answer = parse_response(item.response).answer
    stated = (read_changes(answer) if answer is not None else None) or []
    extra = min(max(len(stated) - len(true), 0), MAX_EXTRA)
    parts = {
        "credit": credit(stated, true, PAPER) if len(stated) <= len(true) + MAX_EXTRA else 0.0,
        "penalty": PAPER.extra * extra if stated else PAPER.silent,
        "format": PAPER.form * (read_blocks(item.response, ("think", "answer")) is not None),
    }
    return RewardResult(sum(parts.values()), float(sorted(stated) == sorted(true)), parts)


def true_changes(truth: str) -> list[Change]:
    """The changes of a truth. Raises DataError if `read_changes` finds none."""
    true = read_changes(truth)
    if not true:
        raise DataError(f'truth: got {truth[:80]!r}; want JSON such as [["3", "color", "red"]]')
    return true


def check_score(truth: str, extra_info: object, truth_size: object) -> None:
    """Raises DataError for a malformed truth."""
    true_changes(truth)


def credit(stated: Sequence[Change], true: Sequence[Change], settings: Settings) -> float:
    """The sum of what the stated changes earn.

    A true change is matched with one stated change at most: first with one that is equal in all three fields, then with
    one that is equal in the first two, then in the first.

    >>> credit([("3", "color", "red"), ("4", "size", "big")], [("3", "color", "red"), ("4", "size", "small")], PAPER)
    6.5
    """
    total, open_stated, open_true = 0.0, list(stated), list(true)
    for length, worth in ((3, settings.whole), (2, settings.attribute), (1, settings.object)):
        rest = []
        for change in open_stated:
            partner = next((other for other in open_true if other[:length] == change[:length]), None)
            if partner is None:
                rest.append(change)
            else:
                open_true.remove(partner)
                total += worth
        open_stated = rest
    return total


def read_changes(text: str) -> list[Change] | None:
    """The changes in a text. What stands before its first [ and after its last ] is ignored.

    None unless the rest is a JSON list of lists of three, each a text or a finite number.

    >>> read_changes('[[3, "Color", "Red"]]')
    [('3', 'color', 'red')]
    """
    start, end = text.find("["), text.rfind("]")
    try:
        found = load_json(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(change, list) and len(change) == 3 for change in found):
        return None
    if not all(isinstance(word, str) or _is_number(word) for change in found for word in change):
        return None
    first, second, third = ([_word(change[k]) for change in found] for k in range(3))
    return list(zip(first, second, third, strict=True))


def _word(value: str | float) -> str:
    return (value if isinstance(value, str) else f"{value:.15g}").strip().casefold()


def _is_number(value: object) -> bool:
    return isinstance(value, float) and isfinite(value)
