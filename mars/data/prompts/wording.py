"""Finds what a view's text says about images that the view does not show: "two images", "both", "Infrared:"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from mars.data.prompts.label_text import NOUN, name_pattern
from mars.data.prompts.labels import unlabelled
from mars.data.prompts.views import alone, render_view
from mars.types import IMAGE_MARKER, Prompt, view_name

_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PLURAL = r"(?:images|photos|photographs|pictures|views|frames|scans|sources|sensors|cameras|modalities)"
_SINGULAR = r"(?:image|photo|photograph|picture|view|frame|scan|source|sensor|camera|modality)"
_ORDINALS = "first|second|third|fourth|fifth|sixth|1st|2nd|3rd|4th|5th|6th"
_SEVERAL = re.compile(
    rf"\b(?:{'|'.join(_NUMBERS)}|[2-9]|[1-9]\d|several|multiple|all|pair of)(?:\s+[\w-]+){{0,2}}\s+{_PLURAL}\b"
    rf"|\b(?:the|these|those|following|given|provided)\s+(?:[\w-]+\s+)?{_PLURAL}\b"
    r"|(?<!第)(?:[两兩二三四五六多幾几每各]|这些|這些|[2-9])\s*[张張幅个個枚][^\s，。]{0,4}(?:图|圖|照片|影像|画像|写真)"
    rf"|\b{_PLURAL}\s*:|\bboth\b|\b(?:other|another|each|either|every|{_ORDINALS})\s+{_SINGULAR}\b",
    re.IGNORECASE,
)
_NUMBERED = re.compile(rf"\b{_SINGULAR}[\s_#-]*(\d{{1,2}})\b", re.IGNORECASE)

_ENUMERATION = re.compile(r"(?<![(\w])\w{1,2}\)|[-=]>|^[ \t]*>+", re.MULTILINE)  # brackets that stand alone: "a)", "->"


def unshown_images(prompt: Prompt) -> tuple[str, str] | None:
    """(view, words) of the first mono view whose text mentions images that the view does not show, or None.

    Reads the text that the model gets with `anchor.image_layout=single` and the `anchor.wording` of the run.
    These words count as mentions: the number of images ("two images"), plurals ("these images"), "both", another image
    called by its number ("image 2"), labels of other images, and words that only join another image to the shown one
    ("with" of "Compare <image> with <image>"). A source's name in a sentence ("Is the person visible?") does not
    count. Words between two images count as well if no rule tells which of the two they label. So does a bracket whose
    other half is in the prompt but not in the view. The result is a guess for a person to check.

    Example: "Here are two images.\\n<image>\\n<image>" with sources a and b gives ("a", "two images").
    """
    names = tuple(source.name for source in prompt.sources)
    if len(names) < 2:
        return None
    for i, name in enumerate(names):
        text = "\n".join(message.text for message in render_view(prompt, (name,), "single")[0])
        words = _words(text, names, i) or ("" if (name,) in prompt.view_messages else _left_over(prompt, name))
        if words:
            return view_name((name,)), " ".join(words.split())
    doubtful = _unassigned(prompt)
    if doubtful:
        return view_name(names[:1]), " ".join(doubtful.split())
    whole = _balance(prompt)
    view = next((name for name in names if _balance(alone(prompt, (name,))) != whole), None)
    return None if view is None else (view_name((view,)), "a bracket without its other half")


def _unassigned(prompt: Prompt) -> str:
    """The first words around the images that no rule assigns to a single image, such as "is visible" of
    "<image> is visible, <image> is infrared"; "" if there are none."""
    texts: list[str] = []
    first = 0
    for message in prompt.messages:
        count = message.text.count(IMAGE_MARKER)
        names = [source.name for source in prompt.sources[first : first + count]]
        pieces = unlabelled(message.text, names, first + 1) if count else [message.text]
        is_before, is_behind = first == 0, first + count == len(prompt.sources)
        if count < len(prompt.sources) and count:  # some images are in other messages: all text between images counts
            whole = message.text.split(IMAGE_MARKER)
            pieces = [pieces[0] if is_before else whole[0], *pieces[1:-1], pieces[-1] if is_behind else whole[-1]]
        elif not count and (is_before or is_behind):
            pieces = []
        texts += pieces
        first += count
    return next((text for text in texts if any(_is_word(char) for char in text)), "")


def _is_word(char: str) -> bool:
    """Whether a character says something: letters, digits and pictures do, punctuation and white space do not."""
    return unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "So"


def _balance(prompt: Prompt) -> tuple[int, ...]:
    """For each kind of bracket, how many more are opened than closed in a prompt's text."""
    text = "".join(message.text for message in prompt.messages).replace(IMAGE_MARKER, "")
    text = _ENUMERATION.sub("", text)
    return tuple(text.count(opened) - text.count(closed) for opened, closed in ("()", "[]", "{}", "<>"))


def _words(text: str, names: Sequence[str], own: int) -> str:
    found = _SEVERAL.search(text) or _label_of_others(tuple(names), own).search(text)
    if found:
        return found[0]
    numbered = (found for found in _NUMBERED.finditer(text) if 0 < int(found[1]) <= len(names))
    return next((found[0] for found in numbered if int(found[1]) != own + 1), "")


@lru_cache(maxsize=1024)
def _label_of_others(names: tuple[str, ...], own: int) -> re.Pattern[str]:
    name = "(?:" + "|".join(name_pattern(name) for name in names if name != names[own]) + ")"
    return re.compile(
        rf"{name}(?:\s+{NOUN}\b|[*_]*\s*[:：=]|\s*[)\]>|])|[(\[<]\s*{name}|^[ \t#*_>•-]*{name}[ \t*_.,]*$",
        re.IGNORECASE | re.MULTILINE,
    )


def _left_over(prompt: Prompt, name: str) -> str:
    """Words that the view of source `name` still shows although they belong to a removed marker: its label, or a word
    of an enumeration, such as "with" of "Compare <image> with <image>". If such words are left at several
    places, those of the first place are returned; if there are none, ""."""
    cut, _ = render_view(prompt, (name,), "single")
    for shown, wanted in zip(cut, alone(prompt, (name,)).messages, strict=True):
        words, kept = shown.text.split(), wanted.text.split()
        if words == kept:
            continue
        for kind, start, end, _, _ in SequenceMatcher(None, words, kept, autojunk=False).get_opcodes():
            lost = " ".join(words[start:end]).replace(IMAGE_MARKER, "").strip(" ,.;!?，。、；")
            if kind in ("delete", "replace") and any(char.isalnum() or not char.isascii() for char in lost):
                return lost
    return ""
