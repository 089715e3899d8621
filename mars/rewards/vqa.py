"""Scores a short answer against the truth: right or wrong (docs/rewards.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, pairwise
from string import ascii_lowercase
from typing import Any

from mars.errors import DataError
from mars.rewards.answer_forms import equals_one_of, letter_and_text, lone_letter, readings
from mars.rewards.answer_words import (
    MAX_CHARS,
    comparable,
    loosely,
    normalise,
    with_decimal_point,
    without_articles,
    words_of,
)
from mars.rewards.contract import ACCURACY, BuiltInReward
from mars.rewards.parsing import format_score, has_visible, load_json, parse_response, parse_truth
from mars.rewards.yes_no import POLAR, yes_or_no
from mars.types import RewardInput, RewardResult

_OR = re.compile(r"\bor\b", re.IGNORECASE)
_PIECE_END = re.compile(r"\n+|(?<=\w\w[.!]) +")


def score_vqa(item: RewardInput) -> RewardResult:
    """score = format (0 to 0.5) + accuracy (0 or 1). Raises DataError if the truth is malformed.

    The text of the only `<answer>` is compared with the truth. docs/rewards.md lists the forms that an answer may have.
    The accuracy is 1 if
    - the answer equals the truth or one of its alternatives ("three or 3"), as `normalise` and `comparable` define it,
      also in markup or after a phrase such as "the answer is"; or
    - the truth is yes or no and `yes_or_no` finds the same in the answer; or
    - `extra_info["choices"]` lists the options A, B, … and the answer is the right option's letter ("B", "(b)"), its
      text, or both ("B. Travel"). The truth may be a letter, a text or both, with alternatives ("B or D").
    An empty answer is wrong. An answer of more than `MAX_CHARS` characters is wrong unless the truth is yes or no.

    This function is both the strict and the compat scorer; docs/rewards.md says why.
    """
    right = _judge(item.truth, item.extra_info)
    response = parse_response(item.response)
    accuracy = float(response.answer is not None and right(response.answer.strip()))
    form = format_score(response, wants_fence=False)
    return RewardResult(score=form + accuracy, accuracy=accuracy, parts={"format": form, "accuracy": accuracy})


def answer_accuracy(item: RewardInput, answer: str | None) -> float:
    """1 if `answer`, a text without tags, is right for the truth and choices of `item`; otherwise 0, also for None.

    `item.response` is ignored. Raises DataError for a truth that is malformed, whatever the answer is.
    """
    right = _judge(item.truth, item.extra_info)
    return float(answer is not None and right(answer.strip()))


def check_truth(truth: str, extra_info: Mapping[str, Any], truth_size: tuple[int, int] | None) -> str | None:
    """Why a truth cannot be scored, or None. For example: it is empty, or its letter is not in the choices.

    A truth also cannot be scored if two choices are too alike: if they differ only in punctuation, capitals or
    articles, or in how a number or unit is written ("5 m", "5 meters").

    >>> check_truth("C#", {"choices": ["Java", "C#", "Python"]}, None)
    >>> check_truth("A", {"choices": ["50%", "50‰"]}, None)
    "extra_info.choices: two options read the same; got A '50%' and B '50‰'; want texts that differ"
    """
    try:
        _judge(truth, extra_info)
    except DataError as error:
        return str(error)
    return None


class _Choices:
    """Options A, B, … of a multiple-choice question. Raises DataError where two of them could be the same answer."""

    def __init__(self, options: Sequence[str]) -> None:
        self._letters = list(ascii_lowercase[: len(options)])
        self._words = [words_of(option) for option in options]
        self._texts = [comparable(option) for option in options]
        self._decimals = [comparable(with_decimal_point(option)) for option in options]
        self.normal = [normalise(option) for option in options]
        self._check_distinct(options)

    def _check_distinct(self, options: Sequence[str]) -> None:
        for comparison in (self._texts, [loosely(option) for option in options]):
            for (first, one), (second, other) in combinations(enumerate(comparison), 2):
                if one == other:
                    letters = self._letters[first].upper(), self._letters[second].upper()
                    pair = f"{letters[0]} {options[first]!r} and {letters[1]} {options[second]!r}"
                    raise DataError(
                        f"extra_info.choices: two options read the same; got {pair}; want texts that differ"
                    )

    def find(self, text: str, *, letters: bool = False) -> int | None:
        """Position of the option that `text` names: its letter, its text, or its letter and its text.

        letters: read a bare letter as the letter of an option, even if another option's text is this letter ("A" among
            the blood types O, A, B).
        """
        found = (self._find(reading, letters) for reading in readings(text))
        return next((index for index in found if index is not None), self._agreed(text, letters))

    def has_letter(self, text: str) -> bool:
        """Whether a text names an option by its letter beyond doubt: "B. Travel", "(B)", "option B"."""
        letter = lone_letter(text)
        return (letter is not None and letter[1]) or (self.find(text) is not None and self.has_letter_and_more(text))

    def has_letter_and_more(self, text: str) -> bool:
        """Whether a text surely has the letter of an option, with more words behind or before it, such as "B. Travel".

        "A dog" does not count: its "A" may be an article.
        If this is true and `find` returns None, the words are not the text of the letter's option.
        """
        labels = [label for reading in readings(text) for label in letter_and_text(reading)]
        return any(letter in self._letters and sure for letter, _, sure in labels)

    def _find(self, text: str, letters: bool) -> int | None:
        words, letter = words_of(text), lone_letter(text)
        index = self._position(letter[0]) if letter else None
        called = letter is not None and (letter[1] or letters)
        if words in self._words and (index is None or not called):  # an option may read "A dog", or "B"
            return self._words.index(words)
        if index is not None:
            return index
        labels = [(self._position(name), rest, sure) for name, rest, sure in letter_and_text(text)]
        labels = [label for label in labels if label[0] is not None]
        for index, rest, _ in labels:
            if index is not None and self._has_text(rest, index):
                return index
        if any(sure for _, _, sure in labels):
            return None  # the letter of one option and the text of another
        whole = comparable(text)
        if whole in self._texts:
            return self._texts.index(whole)
        decimal = comparable(with_decimal_point(text))
        return self._decimals.index(decimal) if self._decimals.count(decimal) == 1 else None

    def _has_text(self, text: str, index: int) -> bool:
        decimal = comparable(with_decimal_point(text))
        return comparable(text) == self._texts[index] or (
            decimal == self._decimals[index] and self._decimals.count(decimal) == 1
        )

    def _position(self, letter: str) -> int | None:
        return self._letters.index(letter) if letter in self._letters else None

    def _agreed(self, text: str, letters: bool) -> int | None:
        """The option that all lines or sentences of a text name. None if they name different ones, and for a text that
        does not have two or three lines or sentences."""
        pieces = [piece.strip() for piece in _PIECE_END.split(text[: MAX_CHARS + 1]) if piece.strip()]
        if len(text) > MAX_CHARS or not 1 < len(pieces) <= 3:
            return None
        found = set()
        for piece in pieces:
            named = (self._find(reading, letters) for reading in readings(piece))
            found.add(next((index for index in named if index is not None), None))
        return found.pop() if len(found) == 1 else None


def _judge(truth: str, extra_info: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return a function that tells whether an answer is right. Raises DataError if the truth is malformed."""
    text = (parse_truth(truth).answer or "").strip()
    if len(text) > MAX_CHARS or not words_of(text):
        raise DataError(f"truth: empty or longer than {MAX_CHARS} characters; got {truth[:80]!r}; want a short answer")
    if _is_json_list(text):
        raise DataError(f"truth: a list or an object; got {text[:80]!r}; want a text (boxes are for grounding)")
    options = read_choices(extra_info)
    if options:
        return _judge_choice(text, options)
    accepted = _alternatives(text)
    spellings = {comparable(alternative) for alternative in accepted | _alternatives(with_decimal_point(text))}
    polar = accepted & POLAR
    if polar == POLAR:
        raise DataError(f"truth: accepts both yes and no; got {text!r}")
    if polar:
        others = accepted - polar, spellings - polar  # such as "none" in the truth "no or none"
        return lambda answer: yes_or_no(answer) in polar or _equals(answer, *others)
    return lambda answer: _equals(answer, accepted, spellings)


def _is_json_list(text: str) -> bool:
    """Whether a truth is a JSON list or object, such as boxes."""
    if (text[0], text[-1]) not in (("[", "]"), ("{", "}")):
        return False
    try:
        load_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _judge_choice(truth: str, options: tuple[str, ...]) -> Callable[[str], bool]:
    choices = _choices(options)
    letters = any(choices.has_letter(part) for part in (truth, *_OR.split(truth)))
    whole = choices.find(truth)  # before its alternatives: an option may itself read "green or blue"
    found = [whole] if whole is not None else [choices.find(part.strip()) for part in _OR.split(truth)]
    right = [index for index in found if index is not None]
    if len(right) < len(found):
        letters = f"A-{ascii_lowercase[len(options) - 1].upper()}"
        raise DataError(f"truth: neither a letter {letters} nor an option of {list(options)}; got {truth!r}")
    accepted = {choices.normal[index] for index in right}
    polar = accepted & POLAR

    def judge(answer: str) -> bool:
        index = choices.find(answer, letters=letters)
        if index is not None:
            return choices.normal[index] in accepted
        return len(polar) == 1 and not choices.has_letter_and_more(answer) and yes_or_no(answer) in polar

    return judge


def read_choices(extra_info: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of `extra_info["choices"]` in order of letter, () if there are none. Raises DataError unless
    they are a list of at most 26 texts, each with a word and at most `MAX_CHARS` characters.

    An option is "Travel", not "A. Travel": the reader of rows has removed the letters (mars/data/rows/choices.py).
    """
    given = extra_info.get("choices")
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(option, str) for option in given):
        raise DataError(f"extra_info.choices: want a list of texts; got {str(given)[:80]}")
    if len(given) > len(ascii_lowercase) or not all(len(text) <= MAX_CHARS and words_of(text) for text in given):
        limits = f"at most {len(ascii_lowercase)} texts of 1 to {MAX_CHARS} characters"
        raise DataError(f"extra_info.choices: want {limits}; got {len(given)}: {str(given)[:80]}")
    return tuple(given)


def _alternatives(truth: str) -> set[str]:
    """The normal forms of the whole truth ("three or 3") and of its alternatives, split at "or" ("three", "3")."""
    words = words_of(truth)
    cuts = [-1, *(place for place, word in enumerate(words) if word == "or"), len(words)]
    parts = [words[start + 1 : end] for start, end in pairwise(cuts)]
    if not all(parts) and len(words) > 1:
        raise DataError(f'truth: an empty alternative beside "or"; got {truth!r}')
    return {" ".join(without_articles(part)) for part in [words, *parts] if part}


def _equals(answer: str, accepted: set[str], spellings: set[str]) -> bool:
    """accepted: the right answers in `normalise`d form. spellings: the right answers in `comparable` form."""
    return len(answer) <= MAX_CHARS and (normalise(answer) in accepted or equals_one_of(answer, spellings))


@lru_cache(maxsize=128)
def _choices(options: tuple[str, ...]) -> _Choices:
    """The `_Choices` of some options. Cached, because answers to one question are scored in a row."""
    return _Choices(options)


def perfect_answer(item: RewardInput) -> str:
    """The truth as an answer with think and answer tags. If several options are right ("B or D"), the first."""
    truth = parse_truth(item.truth).answer or ""
    options = read_choices(item.extra_info)
    if options and _choices(options).find(truth) is None:  # an option may itself read "green or blue"
        truth = _OR.split(truth)[0].strip()
    return f"<think>The truth.</think><answer>{truth}</answer>"


def is_readable(response: str) -> bool:
    """Whether the response has exactly one answer, with at least one visible character."""
    return has_visible(parse_response(response).answer)


VQA = BuiltInReward(
    name="vqa",
    score=score_vqa,
    compat=score_vqa,
    check_truth=check_truth,
    perfect_answer=perfect_answer,
    is_readable=is_readable,
    parts=("format", "accuracy"),
    metric=ACCURACY,
    template="vqa",
)
