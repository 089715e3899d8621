"""Labels of images in a prompt's text: "Infrared: <image>". Views omit labels of images that they omit.

A label is text right before or behind a marker, on its line or on a line of its own:

    Infrared: <image>     the infrared image <image>     (b) <image>     <infrared><image></infrared>     ### Infrared
    <image> (infrared)    <image> infrared                                                                <image>

It belongs to one image if it names that image's source or number ("Image 2:"), or if every image of the message has a
label. Otherwise ("Images: <image><image>") it belongs to all images and stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mars.types import IMAGE_MARKER

NOUN = r"(?:(?:image|photo|photograph|picture|view|frame|figure|map|scan|source|sensor|camera|channel)s?)"
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_THE = r"(?:the|an?|its|their|this|that)(?:\s+(?:corresponding|matching|aligned|paired))?"
_ARTICLE = rf"(?:(?:{_THE}|this is (?:the|an?))\s+)?"
_DECORATION = r"[*_#\"'<\[(\s]*"
_CLOSING = r"[*_\"'>\])]*"
_BULLET = re.compile(r"(?:^|(?<=\n))[ \t]*(?:[-*•#>]+|\(?\w{1,2}[.)])?[ \t]*$")
_SENTENCE_END = re.compile(r"[.!?;|:：]\s+|[。！？；，、]\s*|\n")
# What may stand between two images of an enumeration: "<image>, <image> and <image>", "<image>, then at <image>".
_WORD = r"(?:and|or|with|versus|vs\.?|to|against|then|followed by)(?:\s+(?:at|in|of|on|by|from))?(?!\w)"
_SEPARATOR = re.compile(rf"\s*(?:[,;|/&+，、；]\s*)?(?:(?:\b{_WORD}|以及|[和与與及跟])\s*)?", re.IGNORECASE)
# "红外图像<image>": words that are written without spaces, up to one for an image.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,12}(?:图像|圖像|图片|圖片|照片|影像|图|圖|画像|写真)$")
_IN_BRACKETS = r"[(\[]([^()\[\]\n]{1,40})[)\]]"
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
class _Label:
    """text: the label, with the white space up to the marker. is_named: it names the image beside it."""

    text: str
    is_named: bool


_NONE = _Label("", is_named=False)


@dataclass(frozen=True)
class _Gap:
    """The text between two markers, or at an end of the message.

    tail: label of the image before the gap. middle: text that labels no image. head: label of the image after it.
    """

    tail: _Label
    middle: str
    head: _Label


@dataclass(frozen=True)
class _Names:
    """own: pattern of an image's names: its source and its number. others: pattern of the other sources' names."""

    own: str
    others: str

    def name_only(self, text: str) -> bool:
        return bool(re.search(self.own, text, re.IGNORECASE)) and not re.search(self.others, text, re.IGNORECASE)


def without_labels(text: str, sources: Sequence[str], keep: Sequence[bool], first_number: int) -> list[str]:
    """The pieces of a message around its markers, without the labels of the images that are not kept.

    sources: name of each marker's source. first_number: number of the message's first marker in the prompt, from 1.
    In an enumeration ("Compare <image> with <image>"), separators of removed images are removed too. White space
    around a removed marker stays; `mars.data.prompts.views` closes the gap.

    >>> without_labels("Visible: <image>\\nInfrared: <image>", ["visible", "infrared"], [False, True], 1)
    ['', '\\nInfrared: ', '']
    """
    split = text.split(IMAGE_MARKER)
    gaps = _gaps_of_lines(split) or _gaps(split, sources, first_number)
    all_heads = len(keep) > 1 and all(gap.head.text for gap in gaps[:-1])
    all_tails = len(keep) > 1 and all(gap.tail.text for gap in gaps[1:])
    pieces: list[str] = []
    ends_sentence = False  # the previous image was removed with a whole sentence: remove its full stop too
    for i, gap in enumerate(gaps):
        removed_before, removed_behind = i > 0 and not keep[i - 1], i < len(keep) and not keep[i]
        loses_tail = removed_before and (gap.tail.is_named or all_tails)
        loses_head = removed_behind and (gap.head.is_named or all_heads)
        middle = gap.middle
        if 0 < i < len(keep) and middle.strip() and _SEPARATOR.fullmatch(middle) and not _joins_kept(gaps, keep, i):
            middle = "\n" if "\n" in middle else " " if middle != middle.strip() else ""
        elif ends_sentence:
            middle = re.sub(r"^\s*[.;,](?=\s|$)", "", middle)
        begins = middle.strip() == "" if i == 0 else middle.rstrip()[-1:] in tuple(".!?;:") or middle.endswith("\n")
        ends_sentence = begins and loses_head and bool(gap.head.text)
        pieces.append(("" if loses_tail else gap.tail.text) + middle + ("" if loses_head else gap.head.text))
    return pieces


def name_pattern(source: str) -> str:
    """A regular expression of a source's name in a text: "view_1" is also written "View 1" and "view-1"."""
    words = [re.escape(word) for word in re.split(r"[_.\-]+", source) if word]
    return r"(?<![^\W_])" + r"[\s_.#-]*".join(words) + r"(?![^\W_])"


def _joins_kept(gaps: Sequence[_Gap], keep: Sequence[bool], i: int) -> bool:
    """Whether the separator in gap i joins two kept images; removed images of the enumeration may be between them."""
    if not keep[i]:
        return False
    for before in range(i - 1, -1, -1):
        if keep[before]:
            return True
        if before == 0 or not _SEPARATOR.fullmatch(gaps[before].middle):
            return False
    return False


def _gaps_of_lines(pieces: Sequence[str]) -> list[_Gap] | None:
    """The gaps of images that stand on lines of their own, each behind a short text, or each below or above a short
    line of one kind: there the place alone makes a label, in any language. None for other texts.

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
            labels = [_NONE, *(_Label(tail, is_named=True) for tail in tails)]
            return [_Gap(label, piece[len(label.text) :], _NONE) for label, piece in zip(labels, pieces, strict=True)]
    elif not all(map(_is_short, heads)):
        return None
    labels = [*(_Label(head, is_named=True) for head in heads), _NONE]
    return [
        _Gap(_NONE, piece[: len(piece) - len(label.text)], label) for label, piece in zip(labels, pieces, strict=True)
    ]


def _are_captions(lines: Sequence[str], between: Sequence[str]) -> bool:
    """Whether the lines are short and of one kind, and all that stands between two images."""
    words = [line.split() for line in lines]
    alike = len({len(line) for line in words}) == 1 or len({line[0] for line in words}) == 1
    alone = all(len([line for line in piece.splitlines() if line.strip()]) == 1 for piece in between)
    return alike and alone and all(map(_is_short, lines))


def _is_short(text: str) -> bool:
    """Whether a text can be a label by its place alone: short, with a number, a word for an image or a sign at its end;
    no question, and no word between two images."""
    text = text.strip()
    if not text or len(text) > _MOST_CHARS_UNNAMED or len(text.split()) > _MOST_WORDS_UNNAMED:
        return False
    is_question = _QUESTION.match(text) or "?" in text or "？" in text
    return bool(_LABEL_SIGN.search(text)) and not is_question and not _SEPARATOR.fullmatch(text)


def _gaps(pieces: Sequence[str], sources: Sequence[str], first_number: int) -> list[_Gap]:
    names = [_names(tuple(sources), i, first_number + i) for i in range(len(sources))]
    # In "(a) <image> (b) <image>", brackets label the image after them; otherwise the image before them.
    brackets_before = re.search(rf"{_IN_BRACKETS}\s*$", pieces[0]) is not None
    gaps = []
    for i, piece in enumerate(pieces):
        tail, head, separator = _NONE, _NONE, 0
        if i > 0:
            tail = _tail(pieces[i - 1], piece[:_MOST_CHARS], names[i - 1], brackets_before)
            piece = piece[len(tail.text) :]
            found = _SEPARATOR.match(piece)
            separator = found.end() if found else 0
        if i < len(sources):
            head = _head(piece[max(separator, len(piece) - _MOST_CHARS) :], pieces[i + 1], names[i])
        gaps.append(_Gap(tail, piece[: len(piece) - len(head.text)], head))
    return gaps


@lru_cache(maxsize=1024)
def _names(sources: tuple[str, ...], i: int, number: int) -> _Names:
    ordinal = f"|{_ORDINALS[number - 1]}" if number <= len(_ORDINALS) else ""
    numbered = rf"{NOUN}[\s_#.-]*(?:no\.?\s*)?{number}(?!\d)|\b(?:{number}(?:st|nd|rd|th){ordinal})\b"
    others = "|".join(name_pattern(name) for name in sources if name != sources[i]) or r"(?!)"
    return _Names(rf"(?:{name_pattern(sources[i])}|{numbered})", rf"(?:{others})")


def _head(piece: str, behind: str, names: _Names) -> _Label:
    """The label at the end of `piece`, in front of a marker. behind: the text after that marker."""
    body = piece.rstrip()
    if body and behind.lstrip()[:1] == _PAIRS.get(body[-1], " "):
        inner = _head(body[:-1], "", names)
        return _Label(piece[len(body) - 1 - len(inner.text) :], is_named=True)
    plain = body.rstrip("*_\"'")
    in_sentence = False
    if plain.endswith((":", "：", "=")):
        start = _colon_label(plain, names)
    else:
        start, in_sentence = _label_without_colon(piece, names)
    if start is None:
        return _NONE
    bullet = _BULLET.search(piece[:start])
    label = piece[bullet.start() if bullet else start :]
    return _Label(label, names.name_only(label) and not in_sentence)


def _colon_label(body: str, names: _Names) -> int | None:
    """Start of the label that ends with the colon of `body`. None for a sentence."""
    ends = [found.end() for found in _SENTENCE_END.finditer(body, 0, len(body) - 1)]
    start = ends[-1] if ends else 0
    comma = body.rfind(",", start)
    if comma >= 0 and (len(body[start:].split()) > _MOST_WORDS_UNNAMED or _QUESTION.match(body[start:])):
        start = comma + 1
    label = body[start:].lstrip()
    most = _MOST_WORDS if names.name_only(label) else _MOST_WORDS_UNNAMED
    return None if len(label.split()) > most or _QUESTION.match(label) else len(body) - len(label)


def _label_without_colon(piece: str, names: _Names) -> tuple[int | None, bool]:
    """Start of a label such as "(a)", "the infrared image" or "### Infrared" in front of a marker, None without one;
    and whether the label may be a word of a sentence instead ("Is it visible <image>")."""
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


def _tail(before: str, piece: str, names: _Names, brackets_before: bool) -> _Label:
    """The label at the start of `piece`, behind a marker. before: the text in front of that marker."""
    closed = before.rstrip()[-1:]
    if closed and _PAIRS.get(closed) == piece.lstrip()[:1]:
        return _Label(piece[: len(piece) - len(piece.lstrip()) + 1], is_named=True)
    element = re.match(rf"\s*</{names.own}>", piece, re.IGNORECASE)
    if element:
        return _Label(element[0], is_named=True)
    bracketed = None if brackets_before else re.match(rf"[ \t]*{_IN_BRACKETS}", piece)
    if bracketed:
        return _Label(bracketed[0], names.name_only(bracketed[1]))
    name = rf"[ \t]*[:=–—-]?[ \t]*{_ARTICLE}[*_]*{names.own}(?:[ \t]+{NOUN})?[*_]*[.,;]?[ \t]*(?=\n|$)"
    line = re.match(name, piece, re.IGNORECASE)
    return _Label(line[0], is_named=True) if line else _NONE
