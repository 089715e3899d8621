"""Find labels of images in a prompt's text: "Infrared: <image>".

A label is text right before or behind a marker, on its line or on a line of its own:

    Infrared: <image>     the infrared image <image>     (b) <image>     <infrared><image></infrared>     ### Infrared
    <image> (infrared)    <image> infrared                                                                <image>

A label belongs to one image if it names that image's source or number ("Image 2:"), if it is a pair of tags or
brackets right around that image alone ("<a><image></a>"), or if the message has several images and each has a label on
the same side. Otherwise ("Images: <image><image>") it belongs to all images, and every view keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mars.types import IMAGE_MARKER

NOUN = r"(?:(?:image|photo|photograph|picture|view|frame|figure|map|scan|source|sensor|camera|channel)s?)"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_THE = r"(?:the|an?|its|their|this|that)(?:\s+(?:corresponding|matching|aligned|paired))?"
_ARTICLE = rf"(?:(?:{_THE}|this is (?:the|an?))\s+)?"
_DECORATION = r"[*_#\"'<\[(\s]*"
_CLOSING = r"[*_\"'>\])]*"
_BULLET = re.compile(r"(?:^|(?<=\n))[ \t]*(?:[-*•#>]+|\(?\w{1,2}[.)])?[ \t]*$")
_SENTENCE_END = re.compile(r"[.!?;|:：]\s+|[。！？；，、]\s*|\n")
# What may stand between two images of an enumeration: "<image>, <image> and <image>", "<image>, then at <image>".
_WORD = r"(?:and|or|with|versus|vs\.?|to|against|then|followed by)(?:\s+(?:at|in|of|on|by|from))?(?!\w)"
SEPARATOR = re.compile(rf"\s*(?:[,;|/&+，、；]\s*)?(?:(?:\b{_WORD}|以及|[和与與及跟])\s*)?", re.IGNORECASE)
# "红外图像<image>": text without spaces that ends with a word for an image, such as 图像.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,12}(?:图像|圖像|图片|圖片|照片|影像|图|圖|画像|写真)$")
_IN_BRACKETS = r"[(\[]([^()\[\]\n]{1,40})[)\]]"
_ELEMENT = re.compile(r"<(\w[\w:.-]*)[^<>\n]{0,80}>\s*$")
_PAIRS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}
# A text of more words or characters, or that begins like _QUESTION, is a sentence and no label.
_MOST_WORDS, _MOST_WORDS_UNNAMED = 15, 5
_MOST_CHARS, _MOST_CHARS_UNNAMED = 300, 60
_LABEL_SIGN = re.compile(rf"[\d①-⓿]|\b{NOUN}\b|[^\w\s.,;]\W*$", re.IGNORECASE)
_LINE_ABOVE = re.compile(r"(?:^|(?<=\n))[^\n]*\S[^\n]*\n\s*$")
_LINE_BELOW = re.compile(r"\s*\n[ \t]*\S[^\n]*(?=\n)")
_QUESTION = re.compile(
    r"\W*(?:how|what|which|who|where|when|why|is|are|was|were|do|does|did|can|could|count|find|detect|locate|tell|answer)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Label:
    """text: the label, with the white space up to the marker.

    is_named: whether it surely belongs to the one image beside it: by a name or number in it, or by its place alone.
    """

    text: str
    is_named: bool


_NONE = Label("", is_named=False)


@dataclass(frozen=True)
class Gap:
    """The text between two markers, or at an end of the message.

    tail: label of the image before the gap. middle: text that labels no image. head: label of the image after it.
    """

    tail: Label
    middle: str
    head: Label


@dataclass(frozen=True)
class _Names:
    """own: pattern of an image's names: its source and its number. others: pattern of the other sources' names."""

    own: str
    others: str

    def name_only(self, text: str) -> bool:
        return bool(re.search(self.own, text, re.IGNORECASE)) and not re.search(self.others, text, re.IGNORECASE)


def find_gaps(text: str, sources: Sequence[str], first_number: int) -> list[Gap]:
    """The texts before the first marker of a message, between two, and behind the last one.

    sources: name of each marker's source. first_number: number of the message's first marker in the prompt, from 1.
    """
    pieces = text.split(IMAGE_MARKER)
    return _gaps_of_lines(pieces) or _gaps(pieces, sources, first_number)


def name_pattern(source: str) -> str:
    """A regular expression of a source's name in a text: "view_1" is also written "View 1" and "view-1"."""
    words = [re.escape(word) for word in re.split(r"[_.\-]+", source) if word]
    return r"(?<![^\W_])" + r"[\s_.#-]*".join(words) + r"(?![^\W_])"


def _gaps_of_lines(pieces: Sequence[str]) -> list[Gap] | None:
    """The gaps of a message whose labels, in any language, can be recognized by their place alone; else None.

    Each image must end a line. Labels are short texts in front of each image on its line, or short lines above or below
    each image, all alike (see `_are_captions`). Each column shows lines of a different message:

        in front            above                  below
        📷 <image>          View 1: front          <image>
        🌡 <image>          <image>                Figure 1: visible
    """
    num_images = len(pieces) - 1
    if num_images < 2 or not all("\n" in piece for piece in pieces[1:-1]):
        return None
    rests = [piece.partition("\n")[0] for piece in pieces[1:]]
    if any(rest.strip(" \t.,;。，；") for rest in rests):
        return None
    heads = [piece[piece.rfind("\n") + 1 :] for piece in pieces[:-1]]
    if not any(head.strip() for head in heads):
        above = [_LINE_ABOVE.search(piece) for piece in pieces[:-1]]
        if all(above) and _are_captions([found[0] for found in above if found], pieces[1:-1]):
            heads = [found[0] for found in above if found]
        elif pieces[0].strip():
            return None
        else:
            below = [_LINE_BELOW.match(piece) for piece in pieces[1:]]
            tails = [found[0] for found in below if found]
            if len(tails) < num_images or not _are_captions(tails, pieces[1:-1]):
                return None
            labels = [_NONE, *(Label(tail, is_named=True) for tail in tails)]
            return [Gap(label, piece[len(label.text) :], _NONE) for label, piece in zip(labels, pieces, strict=True)]
    elif not all(map(_is_short, heads)):
        return None
    labels = [*(Label(head, is_named=True) for head in heads), _NONE]
    return [
        Gap(_NONE, piece[: len(piece) - len(label.text)], label) for label, piece in zip(labels, pieces, strict=True)
    ]


def _are_captions(lines: Sequence[str], between: Sequence[str]) -> bool:
    """Whether the lines, one for each image, are captions: short, alike, and the only text between two images."""
    words = [line.split() for line in lines]
    alike = len({len(line) for line in words}) == 1 or len({line[0] for line in words}) == 1
    alone = all(len([line for line in piece.splitlines() if line.strip()]) == 1 for piece in between)
    return alike and alone and all(map(_is_short, lines))


def _is_short(text: str) -> bool:
    """Whether a text can be a label by its place alone.

    It must be short, and contain a number or a word for an image, or end with a symbol such as ":". It must not be a
    question, nor a mere separator of two images such as "and".
    """
    text = text.strip()
    if not text or len(text) > _MOST_CHARS_UNNAMED or len(text.split()) > _MOST_WORDS_UNNAMED:
        return False
    is_question = _QUESTION.match(text) or "?" in text or "？" in text
    return bool(_LABEL_SIGN.search(text)) and not is_question and not SEPARATOR.fullmatch(text)


def _gaps(pieces: Sequence[str], sources: Sequence[str], first_number: int) -> list[Gap]:
    names = [_names(tuple(sources), i, first_number + i) for i in range(len(sources))]
    # In "(a) <image> (b) <image>", brackets label the image after them; otherwise the image before them.
    brackets_before = re.search(rf"{_IN_BRACKETS}\s*$", pieces[0]) is not None
    gaps = []
    for i, piece in enumerate(pieces):
        tail, head, separator = _NONE, _NONE, 0
        if i > 0:
            tail = _tail(pieces[i - 1], piece[:_MOST_CHARS], names[i - 1], brackets_before)
            opened = _unclosed(gaps[-1].head.text)
            if not tail.text and opened:  # "[infrared: <image>]"
                tail = Label(piece[: piece.index(_PAIRS[opened]) + 1], gaps[-1].head.is_named)
            piece = piece[len(tail.text) :]
            found = SEPARATOR.match(piece)
            separator = found.end() if found else 0
        if i < len(sources):
            head = _head(piece[max(separator, len(piece) - _MOST_CHARS) :], pieces[i + 1], names[i])
        gaps.append(Gap(tail, piece[: len(piece) - len(head.text)], head))
    return gaps


@lru_cache(maxsize=1024)
def _names(sources: tuple[str, ...], i: int, number: int) -> _Names:
    ordinal = f"|{ORDINALS[number - 1]}" if number <= len(ORDINALS) else ""
    numbered = rf"{NOUN}[\s_#.-]*(?:no\.?\s*)?{number}(?!\d)|\b(?:{number}(?:st|nd|rd|th){ordinal})\b"
    others = "|".join(name_pattern(name) for name in sources if name != sources[i]) or r"(?!)"
    return _Names(rf"(?:{name_pattern(sources[i])}|{numbered})", rf"(?:{others})")


def _head(piece: str, behind: str, names: _Names) -> Label:
    """The label at the end of `piece`, in front of a marker. behind: the text after that marker."""
    body = piece.rstrip()
    element = _ELEMENT.search(piece)
    if element and re.match(rf"\s*</{re.escape(element[1])}>", behind):
        return Label(element[0], is_named=True)
    if body and behind.lstrip()[:1] == _PAIRS.get(body[-1], " "):
        start = len(body) - 1 - len(_head(body[:-1], "", names).text)
        if piece[:start].endswith("!") and piece[start] == "[":  # Markdown: "![infrared](<image>)"
            start -= 1
        return Label(piece[start:], is_named=True)
    plain = body.rstrip("*_\"'")
    in_sentence = False
    if plain.endswith((":", "：", "=")):
        start = _colon_label(plain, names)
    else:
        start, in_sentence = _label_without_colon(piece, names)
    if start is None:
        return _NONE
    while (opened := _unclosed(piece[start:])) and behind.lstrip()[:1] != _PAIRS[opened]:
        start += 1 + piece[start:].index(
            opened
        )  # a bracket around several images stays: '{"a": <image>, "b": <image>}'
    bullet = _BULLET.search(piece[:start])
    label = piece[bullet.start() if bullet else start :]
    return Label(label, names.name_only(label) and not in_sentence)


def _unclosed(label: str) -> str:
    """The bracket that a label begins with, if the label does not close it; else ""."""
    first = label.lstrip()[:1]
    return first if first in ("(", "[", "{") and label.count(first) > label.count(_PAIRS[first]) else ""


def _colon_label(body: str, names: _Names) -> int | None:
    """Index at which the label at the end of `body` starts; None for a sentence. body: ends with a colon or "="."""
    ends = [found.end() for found in _SENTENCE_END.finditer(body, 0, len(body) - 1)]
    start = ends[-1] if ends else 0
    comma = body.rfind(",", start)
    if comma >= 0 and (len(body[start:].split()) > _MOST_WORDS_UNNAMED or _QUESTION.match(body[start:])):
        start = comma + 1
    label = body[start:].lstrip()
    most = _MOST_WORDS if names.name_only(label) else _MOST_WORDS_UNNAMED
    return None if len(label.split()) > most or _QUESTION.match(label) else len(body) - len(label)


def _label_without_colon(piece: str, names: _Names) -> tuple[int | None, bool]:
    """(start of the label or None, whether it may be a word of a sentence instead, as in "Is it visible <image>")."""
    body = piece.rstrip()
    bracketed = re.search(rf"{_IN_BRACKETS}$", body)
    if bracketed:
        return bracketed.start(), False
    end = rf"{names.own}(?:\s+{NOUN})?{_CLOSING}(?:\s*[-–—])?$"
    unspaced = _UNSPACED.search(body)
    if unspaced:
        return unspaced.start(), False
    line = body.rfind("\n") + 1
    if re.fullmatch(rf"{_DECORATION}{_ARTICLE}{_DECORATION}{end}", body[line:], re.IGNORECASE):
        return line + len(body[line:]) - len(body[line:].lstrip()), False
    if "\n" in piece[len(body) :]:  # the name is the last word of a sentence on the line above
        return None, False
    phrase = rf"(?<=\s){_THE}\s+{_DECORATION}{end}|(?<=\s){names.own}\s+{NOUN}{_CLOSING}$"
    found = re.search(phrase, body, re.IGNORECASE)
    word = found or re.search(rf"(?<=\s){_DECORATION}{end}", body, re.IGNORECASE)
    return (word.start() if word else None), found is None


def _tail(before: str, piece: str, names: _Names, brackets_before: bool) -> Label:
    """The label at the start of `piece`, which is the text after a marker. before: the text in front of that marker."""
    closed = before.rstrip()[-1:]
    if closed and _PAIRS.get(closed) == piece.lstrip()[:1]:
        return Label(piece[: len(piece) - len(piece.lstrip()) + 1], is_named=True)
    opened = _ELEMENT.search(before[-_MOST_CHARS:])
    element = re.match(rf"\s*</{re.escape(opened[1])}>", piece) if opened else None
    if element:
        return Label(element[0], is_named=True)
    bracketed = None if brackets_before else re.match(rf"[ \t]*{_IN_BRACKETS}", piece)
    if bracketed:
        return Label(bracketed[0], names.name_only(bracketed[1]))
    name = rf"[ \t]*[:=–—-]?[ \t]*{_ARTICLE}[*_]*{names.own}(?:[ \t]+{NOUN})?[*_]*[.,;]?[ \t]*(?=\n|$)"
    line = re.match(name, piece, re.IGNORECASE)
    return Label(line[0], is_named=True) if line else _NONE
