"""Answers in \\boxed{…}, the form in which language models answer questions of mathematics."""

from __future__ import annotations

from mars.rewards.parsing import read_each
from mars.rewards.vqa import answer_accuracy
from mars.types import RewardInput

BOX = "\\boxed{"


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, up to the brace that closes it. None without a box, or if it is not closed.

    >>> boxed(r"so \boxed{3}, no, \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    start, depth = text.rfind(BOX), 1
    if start < 0:
        return None
    content = text[start + len(BOX) :]
    for i, letter in enumerate(content):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return content[:i]
    return None


def boxed_accuracy(item: RewardInput) -> float:
    """1 if the content of the last box is right by the rules of the reward vqa, otherwise 0.

    Raises DataError for a malformed truth, even if the response has no box."""
    return answer_accuracy(item, boxed(item.response))


def has_blocks_and_box(text: str, *tags: str) -> bool:
    r"""Whether a text has exactly one block of each tag, in the order of `tags`, and behind them one or more boxes.

    No box may stand before or in a block, and the last box must be closed. Only whitespace may stand before the
    first block; other text may stand anywhere else.

    >>> has_blocks_and_box("<think>2 + 2</think> It is \\boxed{4}.", "think")
    True
    """
    if any(len(read_each(text, tag)) != 1 or text.count(f"<{tag}>") != 1 for tag in tags):
        return False
    places = [text.find(mark) for tag in tags for mark in (f"<{tag}>", f"</{tag}>")] + [text.find(BOX)]
    return places == sorted(places) and boxed(text) is not None and not text[: places[0]].strip()
