"""Caption swaps (ViCrit): one word of a true description is replaced by a wrong word; the task is to find it.

The paper lets a language model choose the replaced span. Here a table of kinds chooses: a word is replaced by another
word of its kind. `--swaps FILE.json` gives another table, {kind: [words]}; its entries may be phrases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mars.data.build.scenes import Made, Picture, Scene, Scenes, pixels
from mars.data.rows.problems import RowError
from mars.data.rows.texts import load_unicode
from mars.errors import DataError
from mars.output.files import read_regular
from mars.types import IMAGE_MARKER, Message, Prompt

if TYPE_CHECKING:
    from numpy.random import Generator

KINDS: Mapping[str, Sequence[str]] = {
    # Words of a kind fit after the same words, so that grammar does not tell which one is wrong.
    "colour": ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"],
    "count": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    "side": ["left", "right"],
    "height": ["above", "below"],
    "depth": ["front", "back"],
    "order": ["top", "bottom"],
    "size": ["tiny", "small", "large", "huge"],
    "material": ["metal", "plastic", "glass", "brick", "concrete", "leather"],
    "shape": ["round", "square", "rectangular", "triangular", "oval", "octagonal"],
    "weather": ["sunny", "cloudy", "rainy", "snowy", "foggy"],
    "light": ["bright", "dim", "dark"],
    "time": ["morning", "afternoon", "evening"],
    "hour": ["noon", "night"],
    "posture": ["sitting", "standing", "lying", "kneeling"],
    "motion": ["walking", "running", "riding", "jumping"],
    "animal": ["dog", "cat", "horse", "cow", "bird", "elephant", "bear", "zebra", "giraffe", "owl"],
    "vehicle": ["car", "truck", "bus", "train", "motorcycle", "bicycle", "boat", "airplane", "ambulance"],
    "clothes": ["shirt", "jacket", "coat", "dress", "sweater", "hat"],
    "furniture": ["chair", "table", "sofa", "bed", "desk", "shelf"],
    "building": ["house", "church", "tower", "bridge", "barn"],
    "plant": ["tree", "bush", "flower"],
    "fruit": ["apple", "banana", "pear", "grape", "lemon", "apricot"],
}


_ARTICLE = re.compile(r"(?<![\w-])(an?)[\s\"'(]+\Z", re.IGNORECASE)
_SILENT_H = re.compile(r"hour|heir|honest|honou?r", re.IGNORECASE)
_LIKE_YOU = re.compile(r"uni[cfoqtv]|us[aeu]|eu|one\b|once\b", re.IGNORECASE)  # spoken "you" or "won"


@dataclass(frozen=True)
class CaptionSwap:
    """column: which text of the row is the description, its "truth" or its "response"."""

    column: str
    kinds: Mapping[str, Sequence[str]]
    name: str = "caption_swap"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        prompt = scene.readable
        caption = self._caption(prompt, scene)
        found = swaps(caption, self.kinds)
        if not found:
            raise RowError(
                "no_swap", "no word of the description is in the table, or no other word of its kind is left"
            )
        (start, end), words, kind = found[int(chance.integers(len(found)))]
        right = caption[start:end]
        wrong = in_case_of(right, words[int(chance.integers(len(words)))])
        changed = caption[:start] + wrong + caption[end:]
        several = len(prompt.sources) > 1
        question = (
            f"This is a description of {'what these images show' if several else 'this image'}, in which one word or "
            f"phrase was replaced, so that it is wrong:\n{changed}\n"
            "Which word or phrase is wrong? Answer with it alone."
        )
        messages = [Message("user", f"{IMAGE_MARKER * len(prompt.sources)}\n{question}")]
        pictures = [Picture(source.name, pixels(source)) for source in prompt.sources]
        return Made(self.name, messages, pictures, wrong, drawn={"kind": kind, "right": right, "start": start})

    def _caption(self, prompt: Prompt, scene: Scene) -> str:
        if self.column == "truth" and not prompt.truth and scene.problem is not None:
            raise RowError(scene.problem.reason, scene.problem.detail)
        text = prompt.truth if self.column == "truth" else prompt.response
        if not text:
            raise RowError("caption", f"the row has no {self.column}, which --caption names as the description")
        return text


def swaps(caption: str, kinds: Mapping[str, Sequence[str]]) -> list[tuple[tuple[int, int], list[str], str]]:
    """What can be replaced: the place of a word, the words that can replace it, and their kind.

    Words of the description are never used as replacements, so that the wrong word is in it once. After "a" and "an"
    only words that fit are used.

    >>> swaps("A red car and a blue one", {"colour": ["red", "blue", "green"]})
    [((2, 5), ['green'], 'colour'), ((16, 20), ['green'], 'colour')]
    """
    found = []
    for kind, words in kinds.items():
        places = {word: [match.span() for match in _whole(word).finditer(caption)] for word in words}
        unused = [word for word in words if not places[word]]
        for start, end in (place for word in words for place in places[word]):
            fitting = [word for word in unused if fits(caption[:start], word)]
            if fitting:
                found.append(((start, end), fitting, kind))
    return sorted(found)


def in_case_of(right: str, wrong: str) -> str:
    """The wrong word with capitals where the right one has them."""
    if len(right) > 1 and right.isupper():
        return wrong.upper()
    return wrong.capitalize() if right[0].isupper() else wrong


def fits(before: str, word: str) -> bool:
    """Whether a word can stand after this text, whose last word may be "a" or "an".

    >>> fits("an ", "elephant"), fits("an ", "dog"), fits("It is a ", "unicorn"), fits("the ", "dog")
    (True, False, True, True)
    """
    article = _ARTICLE.search(before)
    if article is None:
        return True
    vowel = word.lower().startswith(("a", "e", "i", "o", "u"))
    sounds_like_vowel = _SILENT_H.match(word) is not None or (vowel and _LIKE_YOU.match(word) is None)
    return sounds_like_vowel == (article[1].lower() == "an")


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE)


def read_kinds(path: Path | None) -> Mapping[str, Sequence[str]]:
    """The table of a JSON file, {kind: [words]}; None: KINDS. Raises DataError."""
    if path is None:
        return KINDS
    try:
        table = load_unicode(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"--swaps: {path} cannot be read: {error}; give a JSON file {{kind: [words]}}") from error
    good = isinstance(table, dict) and all(
        isinstance(words, list)
        and len({word.lower() for word in words if isinstance(word, str) and word.strip() == word != ""})
        == len(words)
        > 1
        for words in table.values()
    )
    if not good or not table:
        raise DataError(f"--swaps: {path} must be {{kind: [words]}} with two or more different words of each kind")
    return table
