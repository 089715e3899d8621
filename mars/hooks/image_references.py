"""References to images by number, order and count in a text: "image 2", "the last picture", "both images".

They are found in English, German, French, Spanish, Chinese and Japanese, in linear time. Only short lists of words are
known: other languages and other phrases ("the image on the left", "the thermal one") are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mars.hooks import image_words as words
from mars.hooks.image_references_cjk import cjk_counts, cjk_places

Place = int | None
"""The number of an image, from 1. None: the last image. 0, the number of no image, stands for a relative place ("left",
"next"), whose image depends on all images shown, and for a number of more than four digits."""

_TOKEN = re.compile(r"\d+(?:st|nd|rd|th|er|ere|re|eme|e|a|o)(?![^\W_])|\d+|[^\W\d_]+|[^\w \t]|_")
_BREAKS = frozenset(".!?;:\n。！？；")
_SEPARATORS = frozenset(":([")
_ROMAN = {"II": 2, "III": 3, "IV": 4}
_MOST_ADJECTIVES = 3
_MOST_TOKENS = 16  # read on each side of a noun at most, so that the time is linear


@dataclass(frozen=True)
class References:
    """places: of the images that a text names. counts: how many images it says there are; 1 for "the only image"."""

    places: frozenset[Place]
    counts: frozenset[int]


def references_in(text: str) -> References:
    """The references to images in a text.

    >>> found = references_in("Both images: image (1) and the last, infrared one. In the image two dogs run.")
    >>> found.places, found.counts
    (frozenset({1}), frozenset({2}))
    """
    plain = words.folded(text)
    tokens, places, counts = _TOKEN.findall(plain), set(cjk_places(plain)), set(cjk_counts(plain))
    for i, token in enumerate(tokens):
        noun = token.lower()
        weak = noun in words.LABELLED or noun in words.COUNTED
        if not weak and not _is_image(noun):
            continue
        before = _Before(tokens, i, 0 if weak else _MOST_ADJECTIVES)
        if not weak or noun in words.COUNTED:
            places.update(before.places)
            counts.update(before.counts if not weak else [n for n in before.counts if n > 1])
        if not weak or noun in words.LABELLED:
            places.update(_labels(tokens, i, before.has_determiner))
    return References(frozenset(places), frozenset(counts))


def _is_image(noun: str) -> bool:
    return noun in words.SINGULAR or _is_plural(noun) or noun.endswith(words.GERMAN_SINGULAR)


def _is_plural(noun: str) -> bool:
    return noun in words.PLURAL or noun.endswith(words.GERMAN_PLURAL) or (noun in words.COUNTED and noun.endswith("s"))


class _Before:
    """What stands before the noun at `tokens[i]`: "the second, infrared", "the first of the two", "only one".

    At most `adjectives` words are passed over as adjectives.
    """

    def __init__(self, tokens: Sequence[str], i: int, adjectives: int) -> None:
        self.places: list[Place] = []
        self.counts: list[int] = []
        self.has_determiner = False
        self._tokens, self._i, self._left = tokens, i, adjectives
        self._plural = _is_plural(tokens[i].lower())
        self._of = self._direct = self._comma = False
        if i + 1 < len(tokens) and tokens[i + 1].lower() in words.EDGES:  # "the right image edge"
            return
        if _has_day_form(tokens, i):  # "das 2. Bild"
            self.places.append(int(tokens[i - 2]))
        for j in range(i - 1, max(i - _MOST_TOKENS, -1), -1):
            token = tokens[j].lower()
            if token in _BREAKS or (not self._accepts(j, token) and self._stops(j, token)):
                break

    def _accepts(self, j: int, token: str) -> bool:
        """Whether the token is an ordinal, a number, or a word such as "last", "both" or "only".

        Records the place or count that the token gives, unless the words around it rule that out.
        """
        if self._tokens[j + 1] == "-" and j + 2 != self._i:  # "single-channel image"
            return False
        place = _place_of(token)
        if place:
            if not self._comma or self._determiner_at(j - 1):  # "First, infrared images ..." names none
                self.places.append(place[0])
        elif token in words.TWO:
            self.counts.append(2)
        elif token in words.ALONE and not self._of:
            self.counts.append(1)
        elif (number := _number_of(token)) is not None and token not in words.ARTICLES_TOO:
            if (number == 1 or self._plural) and not self._of:
                self.counts.append(number)
        else:
            return False
        self._direct = False
        return True

    def _stops(self, j: int, token: str) -> bool:
        """Whether nothing before this token belongs to the noun."""
        found = bool(self.places or self.counts)
        if token == ",":
            self._comma = self._comma or not found
            return False
        if not token[0].isalnum():  # quotes, brackets, hyphens and asterisks
            return False
        if token in words.AND:
            self._direct = found
            return not (found or self._plural)  # "image 1 and infrared image 2" has two nouns
        if _is_image(token):
            return True
        if self._plural and (token in words.OF_THE or (token in words.STOPS and self._before_is_of(j))):
            self._of = self._direct = True
            return False
        if token in words.OF and self._of:
            return False
        if token in words.STOPS:
            self.has_determiner = self.has_determiner or token in words.DETERMINERS
            if found and self.has_determiner and self._before_is_and(j):
                self._direct = True
                return False
            return True
        self._left -= 1
        return self._direct or self._left < 0

    def _determiner_at(self, j: int) -> bool:
        return j >= 0 and self._tokens[j].lower() in words.DETERMINERS

    def _before_is_of(self, j: int) -> bool:
        return j > 0 and self._tokens[j - 1].lower() in words.OF

    def _before_is_and(self, j: int) -> bool:
        return j > 0 and self._tokens[j - 1].lower() in words.AND


def _has_day_form(tokens: Sequence[str], i: int) -> bool:
    """Whether the noun `tokens[i]` is German, after a German ordinal in one to three figures, as in "2. Bild"."""
    german = tokens[i].lower().endswith((*words.GERMAN_SINGULAR, *words.GERMAN_PLURAL))
    return german and i > 1 and tokens[i - 1] == "." and tokens[i - 2].isdecimal() and len(tokens[i - 2]) < 4


def _labels(tokens: Sequence[str], i: int, has_determiner: bool) -> Iterator[Place]:
    """The numbers behind the noun at `tokens[i]`, as in "image 1", "image (2)", "image no. 3", "images 1, 2 and 4",
    "image A"."""
    separated, j, end = False, i + 1, min(i + _MOST_TOKENS, len(tokens))
    while j < end:
        token = tokens[j]
        if token in _SEPARATORS:
            separated = True
        elif token == ".":
            if tokens[j - 1].lower() not in words.ABBREVIATED:
                return
        elif token in ",\n;!?。，" or (token[0].isalnum() and token.lower() not in words.NUMBER_WORDS):
            break
        j += 1
    if j >= end or not _is_label(tokens, j, has_determiner, separated):
        return
    plural = _is_plural(tokens[i].lower())
    while j < end and (label := _label_of(tokens[j])) is not None:
        yield label
        j += 1
        while j < end and (not tokens[j][0].isalnum() or tokens[j].lower() in words.AND | {"to", "through"}):
            if tokens[j] in _BREAKS or (tokens[j] == "," and not plural):
                return
            j += 1


def _is_label(tokens: Sequence[str], j: int, has_determiner: bool, separated: bool) -> bool:
    """Whether the number at `tokens[j]` belongs to the noun before it; in "in the image two dogs run" it does not."""
    token = tokens[j]
    if _label_of(token) is None:
        return False
    following = next((one for one in tokens[j + 1 : j + 4] if one not in "*_`\"'"), ".").lower()
    goes_on = following in words.FOLLOWERS or not following[0].isalnum()
    if token == "I":  # the pronoun, unless a verb follows that an image can have ("image I shows")
        return not has_determiner and goes_on and following not in ("see", "can", "could", "will", "have", "am", "do")
    if token.isalpha() and len(token) > 1 and token not in _ROMAN:  # "image one"
        return goes_on and (separated or not has_determiner)
    return goes_on or not (has_determiner or separated)


def _label_of(token: str) -> int | None:
    """The number that a label such as "2", "two", "II" or "B" stands for (here 2); None for a word that is no label."""
    if token in _ROMAN:
        return _ROMAN[token]
    if len(token) == 1 and "A" <= token <= "I":
        return 1 if token == "I" else ord(token) - ord("A") + 1
    number = _number_of(token.lower())
    return None if token.lower() in words.ARTICLES_TOO and token.lower() != "uno" else number


def _number_of(word: str) -> int | None:
    if word.isdecimal():
        return int(word) if len(word) < 5 else 0
    return words.NUMBERS.get(word)


def _place_of(word: str) -> tuple[Place] | tuple[()]:
    """A tuple of the `Place` that an ordinal or a word such as "last" or "left" stands for; () for another word."""
    if word in words.ORDINALS:
        return (words.ORDINALS[word],)
    if word in words.LAST:
        return (None,)
    if word in words.BESIDE:
        return (0,)
    figures = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    if figures != word and figures.isdecimal():
        return (int(figures) if len(figures) < 5 else 0,)
    return ()
