"""Reads the words around boxes, and the sentences that say that there are none (docs/rewards.md)."""

from __future__ import annotations

import re

from mars.rewards.answer_words import word_set

_MAX_PROSE = 400

# Words around a list that make it doubtful whether the list is the answer.
_WITHDRAWS = word_set(
    "or either neither nor maybe perhaps possibly might unsure uncertain guess except but instead rather wrong "
    "option alternative incorrect false wait actually alternatively if would unless example format cannot "
    "doubt however though although"
)
_NEGATIONS = word_set(
    "no not never none nothing nobody without isn aren don didn wasn weren doesn isnt arent dont zero"
)
_NUMBER_IN_BRACKETS = re.compile(r"\(\s*-?\d")

_THINGS = (
    "persons?|people|pedestrians?|humans?|m[ae]n|wom[ae]n|child|children|individuals?|bod(?:y|ies)|cars?|vehicles?|trucks?|"
    "bus|buses|bicycles?|bikes?|motorcycles?|cyclists?|riders?|animals?|dogs?|cats?|birds?|faces?|boats?|ships?|planes?|"
    "buildings?|signs?|lights?|objects?|targets?|instances?|things?|boxes|box|bounding boxes|detections?"
)
_SOME = rf"(?:(?:visible|such|detectable|matching|relevant) )?(?:{_THINGS})(?: (?:or|and) (?:{_THINGS}))?"
_SEEN = r"(?: (?:is|are|was|were|can be|could be))?(?: (?:visible|present|detected|found|seen|shown|here|there))?"
_PLACE = (
    r"(?: (?:in|on|of) (?:(?:the|this|these|either|both|any|each|either of the|any of the|both of the) )?(?:two )?{0}"
    r"(?: (?:or|and) (?:the )?{0})?)?"
).format(
    r"(?:(?:given|provided|visible|infrared|thermal|depth) )?(?:images?|scene|pictures?|photos?|views?|frames?|pair)"
)
_LEAD = (
    r"(?:there (?:is|are|was|were) |i (?:can )?(?:see|find|detect|found|detected) |"
    r"(?:the|this) (?:image|scene|picture|photo) (?:contains|shows|has) |"
    r"the (?:images|pictures) (?:contain|show|have) )?"
)
_EMPTY_SCENE = re.compile(
    rf"{_LEAD}(?:no|not any|zero|0) {_SOME}(?: to detect)?{_SEEN}{_PLACE}"
    rf"|neither (?:image|picture|view) (?:contains|shows|has) (?:an?|any) {_SOME}"
    r"|i (?:do not|can not|cannot|did not|could not) (?:see|find|detect) (?:any )?"
    rf"(?:{_SOME}|anyone|anybody|anything){_PLACE}"
    rf"|{_LEAD}(?:none|nothing){_SEEN}{_PLACE}|(?!nobody$){_LEAD}(?:nobody|no one){_SEEN}{_PLACE}"
    r"|(?:the|this) (?:scene|image|picture|list) is empty|(?:an )?empty(?: list| scene)?"
)


def says_nothing_is_there(text: str) -> bool:
    """Whether a text is a sentence which says that the scene is empty.

    >>> [says_nothing_is_there(text) for text in ("There are no persons in the scene.", "None.", "No idea.", "")]
    [True, True, False, False]
    """
    return len(text) <= _MAX_PROSE and _EMPTY_SCENE.fullmatch(" ".join(_words(text))) is not None


def check_prose(text: str, is_empty: bool) -> None:
    """Raises ValueError if the text around a list makes the list doubtful, for example by withdrawing or negating it.

    Next to an empty list, negations are allowed.
    """
    if len(text) > _MAX_PROSE or "<" in text:
        raise ValueError("more text around the list than is read")
    words = set(_words(text))
    if words & _WITHDRAWS or (words & _NEGATIONS and not is_empty) or _NUMBER_IN_BRACKETS.search(text):
        raise ValueError("the words around the list make it doubtful")


def _words(text: str) -> list[str]:
    text = text.casefold().replace("’", "'").replace("can't", "can not").replace("n't", " not")
    return re.findall(r"[^\W_]+", text)
