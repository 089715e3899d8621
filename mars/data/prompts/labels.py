"""Leave out the labels of images that a view leaves out. mars/data/prompts/label_text.py says what a label is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mars.data.prompts.label_text import SEPARATOR, Gap, find_gaps


def without_labels(text: str, sources: Sequence[str], keep: Sequence[bool], first_number: int) -> list[str]:
    """The pieces of a message around its markers, without the labels of the images that are not kept.

    sources: name of each marker's source. first_number: number of the message's first marker in the prompt, from 1.
    In an enumeration ("Compare <image> with <image>"), separators of removed images are removed too. White space
    around a removed marker stays; `mars.data.prompts.views` closes the gap.

    >>> without_labels("Visible: <image>\\nInfrared: <image>", ["visible", "infrared"], [False, True], 1)
    ['', '\\nInfrared: ', '']
    """
    gaps = find_gaps(text, sources, first_number)
    all_heads, all_tails = _all_labelled(gaps)
    pieces: list[str] = []
    ends_sentence = False  # the previous image was removed with a whole sentence: remove its full stop too
    for i, gap in enumerate(gaps):
        removed_before, removed_behind = i > 0 and not keep[i - 1], i < len(keep) and not keep[i]
        loses_tail = removed_before and (gap.tail.is_named or all_tails)
        loses_head = removed_behind and (gap.head.is_named or all_heads)
        middle = gap.middle
        if 0 < i < len(keep) and middle.strip() and SEPARATOR.fullmatch(middle) and not _joins_kept(gaps, keep, i):
            middle = "\n" if "\n" in middle else " " if middle != middle.strip() else ""
        elif ends_sentence:
            middle = re.sub(r"^\s*[.;,](?=\s|$)", "", middle)
        begins = middle.strip() == "" if i == 0 else middle.rstrip()[-1:] in tuple(".!?;:") or middle.endswith("\n")
        ends_sentence = begins and loses_head and bool(gap.head.text)
        pieces.append(("" if loses_tail else gap.tail.text) + middle + ("" if loses_head else gap.head.text))
    return pieces


def unlabelled(text: str, sources: Sequence[str], first_number: int) -> list[str]:
    """The texts before the first marker, between two markers and behind the last marker, without labels and separators.

    The first text is kept only if other images have labels in front of them, but the first image has none. Then only
    the part behind its last line break, sentence end or colon is kept: it may be a label that no rule recognised.
    In the same way, the last text is kept only if other images have labels behind them, but the last image has none,
    and of it only the first line. A text that is not kept is "".
    """
    gaps = find_gaps(text, sources, first_number)
    all_heads, all_tails = _all_labelled(gaps)
    middles = []
    for gap in gaps:
        tail = "" if gap.tail.is_named or all_tails else gap.tail.text
        head = "" if gap.head.is_named or all_heads else gap.head.text
        middles.append(tail + ("" if SEPARATOR.fullmatch(gap.middle) else gap.middle) + head)
    has_head = bool(gaps[0].head.text) or not any(gap.head.text for gap in gaps[1:-1])
    has_tail = bool(gaps[-1].tail.text) or not any(gap.tail.text for gap in gaps[1:-1])
    before = "" if has_head else re.split(r"\n|[.!?:]\s", middles[0])[-1]
    behind = "" if has_tail else middles[-1].partition("\n")[0]
    return [before, *middles[1:-1], behind]


def _all_labelled(gaps: Sequence[Gap]) -> tuple[bool, bool]:
    """If there are several images: whether all have a label in front of them, and whether all have one behind them."""
    several = len(gaps) > 2
    return several and all(gap.head.text for gap in gaps[:-1]), several and all(gap.tail.text for gap in gaps[1:])


def _joins_kept(gaps: Sequence[Gap], keep: Sequence[bool], i: int) -> bool:
    """Whether the separator in gap i joins two kept images; removed images of the enumeration may be between them."""
    if not keep[i]:
        return False
    for before in range(i - 1, -1, -1):
        if keep[before]:
            return True
        if before == 0 or not SEPARATOR.fullmatch(gaps[before].middle):
            return False
    return False
