"""Find out whether a text answers yes or no (docs/rewards.md)."""

from __future__ import annotations

import re

from mars.rewards.answer_forms import readings
from mars.rewards.answer_words import ARTICLES, MAX_CHARS, word_set, words_of

POLAR = {"yes", "no"}
_OPPOSITE = {"yes": "no", "no": "yes"}

_SHORT_NOT = re.compile(r"\b(is|are|was|were|does|do|did|has|have|had|would|could|should|must)n['’‘`´]?t\b")
_CAN_NOT = re.compile(r"\b(?:can['’‘`´]?t|cannot)\b")
_WILL_NOT = re.compile(r"\bwon['’]?t\b")
_CLAUSE_END = re.compile(
    r"[.!?;,\n—]+|\s[-–]+\s|(?<!\bnot)(?<!\bsay)(?<!\bis)(?<!\bbe)(?<!\banswer):"
    r"|\b(?:so|therefore|hence|thus|(?<!anything )but)\b"
)

# Words that negate or withdraw a yes or no after them in the same clause.
_WITHDRAWS = word_set(
    "not never cannot neither nor hardly wrong incorrect false untrue doubt deny refuse refute reject without "
    "unable instead rather than if whether opposite contrary hard difficult impossible far also saying either "
    "hesitate disagree anything means contradicts"
)
_HEDGES = {"maybe", "perhaps", "possibly", "either", "could", "might"}
# Words that revise a yes or no if they follow it in the sentence that it begins.
_REVISES = word_set(
    "but however actually wait although though or maybe perhaps possibly probably sure unsure except unless wrong "
    "incorrect false joking kidding unclear unknown uncertain hmm sorry cannot tell if than other besides apart "
    "only depends"
)
_NEGATIONS = word_set("no not never none nothing nobody nowhere without neither nor cannot")
_NO_THING = word_set(
    "doubt doubts question idea clue way reason only fewer less more longer lack absence shortage denying need "
    "answer comment problem matter yes no just chance possibility sign evidence guarantee point wonder mistake "
    "mistaking"
)
_CLAUSE_STARTS = word_set("there it its i he she they we this that these the a an")

_SEE = "(?:see|find|detect|spot|observe|notice)"
_SHOWS = "(?:the|this) (?:image|scene|picture|photo) (?:shows|contains|has)|the images (?:show|contain|have)"
_THERE = f"(?:there (?:is|are|was|were)|i (?:can )?{_SEE}|{_SHOWS})"
_SEEN = "(?:visible|present|seen|shown|detected|found|there|in|on|at|near)"
_THINGS = (
    "persons?|people|pedestrians?|humans?|m[ae]n|wom[ae]n|child|children|individuals?|cars?|vehicles?|trucks?|bus|buses|"
    "bicycles?|bikes?|motorcycles?|cyclists?|riders?|animals?|dogs?|cats?|birds?|objects?|signs?|buildings?|trees?|targets?"
)
_ABSENT = re.compile(
    rf"{_THERE} (?:no|not any|not an?) (?P<thing>\w+).*"
    rf"|i (?:do|can|could) not {_SEE} (?:any|an?|the) (?P<seen>\w+).*"
    rf"|(?:the|this) (?:image|scene|picture|photo) does not (?:show|contain|have) (?:any|an?) (?P<shown>\w+).*"
    rf"|no (?P<bare>\w+)(?: \w+)* (?:is|are|was|were|can be|could be) {_SEEN}\b.*"
    rf"|no (?:(?P<kind>\w+) )?(?:{_THINGS})(?: (?:visible|present|here|there|detected|found))?"
    r"(?: (?:in|on) (?:the|this|either|both|any) (?:two )?\w+)?"
    rf"|no (?:{_THINGS}) (?:is|are|was|were) .+"
    r"|there (?:does|do) not (?:appear|seem) to be (?:an?|any) (?P<seeming>\w+).*"
)
_PRESENT = re.compile(
    rf"{_THERE} (?:an?|one|some|two|three|several|many|multiple|\d{{1,4}}) (?P<thing>\w+).*"
    r"|there are (?P<plural>\w+s)(?: in .*)?"
)
_OR_ONE_MORE = re.compile(r" or (?:an? |any )?(?P<word>\w+)$")
_SHORT = re.compile(r"(?:it|there|they|he|she|this|that) (?:is|are|does|do|did|was|were|has|have|can)(?P<no> not)?")
_IS_THERE = re.compile(r"(?:there|it|they|he|she) (?:is|are|was|were|does|do)")


def yes_or_no(answer: str) -> str | None:
    """ "yes", "no", or None if the answer is neither, or both.

    Three rules are tried in this order:
    - If the last word is yes or no, it decides, and no other rule is tried. The result is None if the clause of this
      word negates it ("not yes", "I cannot say no"), says the opposite too, or is a question ("Is it yes?"; but "yes?"
      is yes). It is also None if the text has both yes and no, and a word like "maybe".
    - The first word decides, if a clause follows that does not contradict or revise it: "Yes, there is a car."
    - If the answer is one sentence that says whether something is there, it decides: "There is no car.", "It is not."
    Of an answer longer than `MAX_CHARS`, only the last `MAX_CHARS` characters are read, and only the first rule is
    tried.

    >>> yes_or_no("I see one, so yes"), yes_or_no("not yes"), yes_or_no("There is no car."), yes_or_no("yes or no")
    ('yes', None, 'no', None)
    """
    tail = answer[-MAX_CHARS:]
    words = words_of(tail)
    if len(answer) > MAX_CHARS:
        words = words[1:]  # the first may be only the end of a word
    readable = readings(answer)
    for text, found in [(tail, words), *((reading, words_of(reading)) for reading in readable)]:
        found = tuple(word for word in found if word not in ("or", "and"))
        if found and found[-1] in POLAR:
            return None if set(found[-2:]) == POLAR else _last_word(found, text)
    for reading in readable:
        text = _spelt_out(reading)
        said = _first_word(text) or _statement(text)
        if said:
            return said
    return None


def _last_word(words: tuple[str, ...], text: str) -> str | None:
    last = words[-1]
    if set(words) >= POLAR and _HEDGES & set(words):
        return None
    clauses = [clause for clause in map(_words, _CLAUSE_END.split(_spelt_out(text))) if clause]
    before = set(clauses[-1][:-1]) - ARTICLES  # "a yes?" does not count as a question
    if before and text.rstrip("\"'”’ ").endswith("?"):
        return None
    return None if before & _WITHDRAWS or _OPPOSITE[last] in before else last


def _first_word(text: str) -> str | None:
    words = _words(text)
    first, rest = words[0] if words else "", words[1:]
    if first not in POLAR or not rest:
        return None
    start = text.find(first)
    end = start + len(first)
    apart = start >= 0 and re.match(r"[\"'”’)*]*\s?(?:[,.;:!(\n–—]|- )", text[end:]) is not None
    if not apart and rest[0] not in _CLAUSE_STARTS:
        return None
    revises = _REVISES if first == "yes" else _REVISES - {"only", "other"}
    if set(rest) & revises or _OPPOSITE[first] in rest or rest[0].isdigit():
        return None
    negated = bool(set(rest) & _NEGATIONS)
    sentence = " ".join(rest)
    if first == "yes":
        return None if negated else first
    return None if not negated and (_PRESENT.match(sentence) or _IS_THERE.fullmatch(sentence)) else first


def _statement(text: str) -> str | None:
    """ "yes" or "no" for a single sentence that says that something is there, or is not; None for any other text."""
    if re.search(r"[.!?;\n]\s*\w", text):
        return None
    sentence = " ".join(_words(text))
    more = _OR_ONE_MORE.search(sentence)
    if more and more["word"] not in _NEGATIONS | POLAR:  # "There is no car or truck"
        sentence = f"{sentence[: more.start()]} {more['word']}"
    words = sentence.split()
    if set(words) & _REVISES:
        return None
    short = _SHORT.fullmatch(sentence)
    if short:
        return "no" if short["no"] else "yes"
    negations = sum(word in _NEGATIONS for word in words)
    absent = _ABSENT.fullmatch(sentence)
    if absent:
        thing = next((found for found in absent.groupdict().values() if found), "")
        return "no" if negations == 1 and thing not in _NO_THING else None
    present = _PRESENT.fullmatch(sentence)
    return "yes" if present and not negations and not set(present.groupdict().values()) & _NO_THING else None


def _spelt_out(text: str) -> str:
    """Lower case, with "not" as a word of its own: "isn't" -> "is not"."""
    text = text.casefold()
    text = _WILL_NOT.sub("will not", _CAN_NOT.sub("can not", text))
    return _SHORT_NOT.sub(r"\1 not", text)


def _words(text: str) -> list[str]:
    return list(words_of(text))
