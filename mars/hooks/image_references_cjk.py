"""References to images by number, order and count in Chinese and Japanese, where no blanks separate words.

A text must first go through `image_words.folded`, which replaces full-width digits and brackets by ASCII ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mars.hooks.image_words import folded

_FIGURES = "零一二三四五六七八九十"
_TWO = "两兩双雙"
_IMAGE = folded("(?:图|圖|照片|影像|画像|畫像|写真|図|イメージ)")
_NUMBER = rf"(?:\d{{1,4}}(?!\d)|[{_FIGURES}{_TWO}])"
_UNIT = "[张張幅枚副帧幀]"
_THINGS = "个個名位只隻条條辆輛人台棵匹头頭把件"
# Only kanji and katakana. Hiragana end the search: in the Japanese for "the first person is in the image", they stand
# between "first" and "image", so no first image is found.
_ADJECTIVES = r"[々\u30a0-\u30ff\u4e00-\u9fff]{0,8}?"
_NAMED = re.compile(rf"{_IMAGE}[片像象]?\s?(?:第|号|[#:(\[])?\s?({_NUMBER})(?![{_THINGS}\d])")
_ORDERED = re.compile(
    rf"第\s?({_NUMBER})\s?{_UNIT}(?:目|の){{0,2}}的?{_ADJECTIVES}{_IMAGE}"
    rf"|第\s?({_NUMBER})\s?{_IMAGE}"
    rf"|({_NUMBER})\s?(?:{_UNIT}|番|つ)目の{_ADJECTIVES}{_IMAGE}"
)
_FIRST = re.compile(rf"最初の{_ADJECTIVES}{_IMAGE}")
_LAST = re.compile(rf"(?:最后|最後)(?:の|的|一{_UNIT}|\d{_UNIT}){_ADJECTIVES}{_IMAGE}")
_COUNTED = re.compile(
    rf"(?<![第\d{_FIGURES}])({_NUMBER})\s?(?:{_UNIT}|つ)(?:の|的)?{_ADJECTIVES}{_IMAGE}"
    rf"|([{_TWO}])(?:者)?{_IMAGE}|(両方|雙方)の{_ADJECTIVES}{_IMAGE}"
)
_ALONE = re.compile(
    rf"(?:唯一|单[张幅]|單[張幅]|(?:只有|仅有|僅有|仅|僅)[一1]{_UNIT})(?:の|的|一{_UNIT})?{_ADJECTIVES}{_IMAGE}"
    rf"|{_IMAGE}は[一1]枚(?:だけ|のみ)"
)


def cjk_places(text: str) -> Iterator[int | None]:
    """The places of the images that the text names, from 1; None: the last one. "图2", "第一张图片", "2枚目の画像"."""
    for match in _NAMED.finditer(text):
        yield _value(match[1])
    for match in _ORDERED.finditer(text):
        yield _value(match[1] or match[2] or match[3])
    if _FIRST.search(text):
        yield 1
    if _LAST.search(text):
        yield None


def cjk_counts(text: str) -> Iterator[int]:
    """How many images the text says there are: 2 for "两张图片", 1 for "唯一的图". "一张图片" gives no number,
    because it can mean just "an image"."""
    for match in _COUNTED.finditer(text):
        count = _value(match[1]) if match[1] else 2
        if count != 1:
            yield count
    if _ALONE.search(text):
        yield 1


def _value(number: str) -> int:
    if number.isdecimal():
        return int(number)
    return 2 if number in _TWO else _FIGURES.index(number)
