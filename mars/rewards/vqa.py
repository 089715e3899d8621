"""Scores a short answer against the truth: right or wrong (docs/rewards.md)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from string import ascii_lowercase
from typing import Any

from mars.errors import DataError
from mars.rewards.contract import ACCURACY, BuiltInReward
from mars.rewards.parsing import format_score, has_visible, load_json, parse_response, parse_truth
from mars.types import RewardInput, RewardResult

Words = tuple[str, ...]

# Unicode normalisation takes quadratic time on adversarial accents, so longer answers are not normalised as a whole.
MAX_CHARS = 300

_POLAR = {"yes", "no"}
_ARTICLES = {"a", "an", "the"}
_APOSTROPHES = "'’‘`´"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d\d\d(?!\d))")
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_LABEL = re.compile(r"\(?([a-z])[.:)]", re.IGNORECASE)


def score_vqa(item: RewardInput) -> RewardResult:
    """score = format (0 to 0.5) + accuracy (0 or 1). Raises DataError if the truth is malformed.

    The text of the only `<answer>` is normalised (`normalise`) and compared with the truth. The accuracy is 1 if
    - the answer equals the truth or one of its alternatives ("three or 3"); or
    - the truth is yes or no and the last word of the answer is the same (but "yes or no" is wrong); or
    - `extra_info["choices"]` lists the options A, B, … and the answer is the right option's letter ("B", "(b)"), its
      text, or both ("B. Travel"). The truth may be a letter, a text or both, with alternatives ("B or D").
    An empty answer is wrong. An answer of more than `MAX_CHARS` characters is wrong unless the truth is yes or no.

    This function is the strict and the compat scorer. All that is known of the public code's comparison is a mistake:
    an empty answer gets full marks. It is not repeated here.
    """
    right = _judge(item.truth, item.extra_info)
    response = parse_response(item.response)
    accuracy = float(response.answer is not None and right(response.answer.strip()))
    form = format_score(response, wants_fence=False)
    return RewardResult(score=form + accuracy, accuracy=accuracy, parts={"format": form, "accuracy": accuracy})


def normalise(text: str) -> str:
    """The text in the form in which answers are compared: two answers are the same if their normal forms are equal.

    In this order: apply Unicode NFKC; casefold; drop apostrophes, thousands commas and invisible characters; replace
    other punctuation by blanks, except decimal points and minus signs; drop articles (a, an, the) before another word;
    collapse blanks. Currency and mathematical signs are kept. A text that is only punctuation is not changed.

    >>> normalise("  The Dunkin’ Donuts, at 1,200.5 m. ")
    'dunkin donuts at 1200.5 m'
    >>> normalise("A")
    'a'
    """
    return " ".join(_without_articles(_words(text)))


def check_truth(truth: str, extra_info: Mapping[str, Any], truth_size: tuple[int, int] | None) -> str | None:
    """Why a truth cannot be scored, or None. For example: it is empty, or its letter is not in the choices."""
    try:
        _judge(truth, extra_info)
    except DataError as error:
        return str(error)
    return None


class _Choices:
    """Options A, B, … of a multiple-choice question."""

    def __init__(self, options: Sequence[str]) -> None:
        self._letters = list(ascii_lowercase[: len(options)])
        self._plain = [_words(option) for option in options]
        self.normal = [normalise(option) for option in options]

    def find(self, text: str) -> int | None:
        """Position of the option that `text` names by its letter, its text, or both; None if it names none."""
        words = _words(text)
        if not words:
            return None
        if len(words) == 1 and words[0] in self._letters:
            return self._letters.index(words[0])
        if words in self._plain:  # before labels: the option may itself read "D. H. Lawrence"
            return self._plain.index(words)
        label = _LABEL.match(text)
        if label and label[1].lower() in self._letters:
            index = self._letters.index(label[1].lower())
            return index if normalise(text[label.end() :]) == self.normal[index] else None
        normal = " ".join(_without_articles(words))
        return self.normal.index(normal) if normal in self.normal else None


def _judge(truth: str, extra_info: Mapping[str, Any]) -> Callable[[str], bool]:
    """A function that says whether an answer is right. Raises DataError if the truth is malformed."""
    text = (parse_truth(truth).answer or "").strip()
    if len(text) > MAX_CHARS or not _words(text):
        raise DataError(f"truth: empty or longer than {MAX_CHARS} characters; got {truth[:80]!r}; want a short answer")
    if _is_json_list(text):
        raise DataError(f"truth: a list or an object; got {text[:80]!r}; want a text (boxes are for grounding)")
    options = read_choices(extra_info)
    if options:
        return _judge_choice(text, options)
    accepted = _alternatives(text)
    polar = accepted & _POLAR
    if polar == _POLAR:
        raise DataError(f"truth: accepts both yes and no; got {text!r}")
    if polar:
        others = accepted - polar  # "none" of the truth "no or none"
        return lambda answer: _last_polar_word(answer) in polar or (bool(others) and _equals(answer, others))
    return lambda answer: _equals(answer, accepted)


def _is_json_list(text: str) -> bool:
    """Whether a truth is a JSON list or object, such as boxes. Answers cannot be compared with it as text."""
    if (text[0], text[-1]) not in (("[", "]"), ("{", "}")):
        return False
    try:
        load_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _judge_choice(truth: str, options: Sequence[str]) -> Callable[[str], bool]:
    choices = _Choices(options)
    whole = choices.find(truth)  # before its alternatives: an option may itself read "green or blue"
    found = [whole] if whole is not None else [choices.find(part.strip()) for part in _OR.split(truth)]
    right = [index for index in found if index is not None]
    if len(right) < len(found):
        letters = f"A-{ascii_lowercase[len(options) - 1].upper()}"
        raise DataError(f"truth: neither a letter {letters} nor an option of {list(options)}; got {truth!r}")
    accepted = {choices.normal[index] for index in right}
    polar = accepted & _POLAR

    def judge(answer: str) -> bool:
        index = choices.find(answer) if len(answer) <= MAX_CHARS else None
        named = None if index is None else choices.normal[index]
        return named in accepted or (index is None and len(polar) == 1 and _last_polar_word(answer) in polar)

    return judge


def read_choices(extra_info: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of `extra_info["choices"]` in order of letter, () if there are none. Raises DataError.

    The texts have no letters: the reader of rows has removed them (mars/data/rows/choices.py).
    """
    given = extra_info.get("choices")
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(option, str) for option in given):
        raise DataError(f"extra_info.choices: want a list of texts; got {str(given)[:80]}")
    if len(given) > len(ascii_lowercase) or not all(len(text) <= MAX_CHARS and _words(text) for text in given):
        limits = f"at most {len(ascii_lowercase)} texts of 1 to {MAX_CHARS} characters"
        raise DataError(f"extra_info.choices: want {limits}; got {len(given)}: {str(given)[:80]}")
    return tuple(given)


def _alternatives(truth: str) -> set[str]:
    """The normal forms of all alternatives ("three", "3") and of the whole truth ("three or 3")."""
    words = _words(truth)
    cuts = [-1, *(place for place, word in enumerate(words) if word == "or"), len(words)]
    parts = [words[start + 1 : end] for start, end in pairwise(cuts)]
    if not all(parts) and len(words) > 1:
        raise DataError(f'truth: an empty alternative beside "or"; got {truth!r}')
    return {" ".join(_without_articles(part)) for part in [words, *parts] if part}


def _equals(answer: str, accepted: set[str]) -> bool:
    return len(answer) <= MAX_CHARS and normalise(answer) in accepted


def _last_polar_word(answer: str) -> str | None:
    """The last word of an answer to a yes/no question. None if it follows its opposite ("yes or no", "yes/no")."""
    words = _words(answer[-MAX_CHARS:])
    if len(answer) > MAX_CHARS:
        words = words[1:]  # the first may be the end of a longer word
    words = [word for word in words if word not in ("or", "and")]
    if not words or set(words[-2:]) == _POLAR:
        return None
    return words[-1]


def _without_articles(words: Words) -> Words:
    """Drop articles that another word follows. The answers "A" and "vitamin A" keep theirs."""
    return tuple(word for word in words[:-1] if word not in _ARTICLES) + words[-1:]


def _words(text: str) -> Words:
    """The words of a text, normalised except for articles; see `normalise`."""
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    visible = "".join(char for char in text if char.isspace() or unicodedata.category(char) not in ("Cc", "Cf"))
    padded = f" {visible} "
    kept = (
        _character(before, char, after) for before, char, after in zip(padded[:-2], visible, padded[2:], strict=True)
    )
    return tuple("".join(kept).split()) or tuple(visible.split())


def _character(before: str, char: str, after: str) -> str:
    """What `normalise` replaces `char` by: itself, "" or a blank."""
    if char in _APOSTROPHES:
        return ""
    if char == "." and after.isdigit() and not before.isalpha():
        return char
    if char in "-−" and after.isdigit() and not before.isalnum():
        return "-"
    category = unicodedata.category(char)
    keep = category[0] in "LMNS" and category != "Sk"
    return char if keep else " "


def perfect_answer(item: RewardInput) -> str:
    """The truth as an answer with think and answer tags. If several options are right ("B or D"), the first."""
    truth = parse_truth(item.truth).answer or ""
    options = read_choices(item.extra_info)
    if options and _Choices(options).find(truth) is None:  # an option may itself read "green or blue"
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
    metric=ACCURACY,
    template="vqa",
)
