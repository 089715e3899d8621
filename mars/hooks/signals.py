"""The numbers that shapings ask the trainer for: for which responses it computes them, and over which tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from mars.algorithms.scoring import Span
from mars.hooks.contract import GroupShaping, Signal
from mars.types import PromptRollouts, RolloutGroup

Decode = Callable[[Sequence[int]], str]
Asked = Mapping[Signal, Literal["multi", "all"]]
"""Each signal once, with the responses that it is for."""


@dataclass(frozen=True)
class SignalValues:
    """values: `Signal` -> `RolloutGroup.request.key` -> one number for each rollout of that group, NaN for failed ones.

    unreadable: prompt id -> reason, of prompts with an image that cannot be read any more; their numbers are NaN.
    """

    values: Mapping[Signal, Mapping[Any, Sequence[float]]]
    unreadable: Mapping[str, str]

    def of(self, signal: Signal, groups: Iterable[RolloutGroup]) -> list[float]:
        """One number for each rollout of the groups, in order."""
        found = self.values[signal]
        return [value for group in groups for value in found.get(group.request.key, [math.nan] * len(group.rollouts))]


NO_SIGNALS = SignalValues({}, {})


def signals_of(shaping: GroupShaping) -> tuple[Signal, ...]:
    """The attribute `signals` of a shaping; () if it does not have this attribute."""
    return getattr(shaping, "signals", ())


def shaped_groups(item: PromptRollouts, on: Literal["multi", "all"]) -> tuple[RolloutGroup, ...]:
    """The groups whose responses a shaping is for."""
    return item.multi_groups if on == "multi" else (*item.multi_groups, *item.anchors)


def asked_signals(shapings: Iterable[GroupShaping]) -> Asked:
    """The signals of all shapings. If several shapings ask for the same signal, it is computed once: for "all" if one
    of these shapings has on="all"."""
    asked: dict[Signal, Literal["multi", "all"]] = {}
    for shaping in shapings:
        for signal in signals_of(shaping):
            asked[signal] = "all" if "all" in (shaping.on, asked.get(signal)) else "multi"
    return asked


def block_span(text: str, tag: str) -> tuple[int, int] | None:
    """The part of `text` inside its last block <tag>...</tag>, as (start, end) of a slice; None without a block.
    A block ends at the first closing tag.

    >>> block_span("<answer>4</answer> no, <answer>5</answer>", "answer")
    (31, 32)
    >>> block_span("<answer>4", "answer") is None
    True
    """
    closing = f"</{tag}>"
    opening = text.rfind(f"<{tag}>", 0, max(text.rfind(closing), 0))
    if opening < 0:
        return None
    start = opening + len(f"<{tag}>")
    return start, text.find(closing, start)


class TokenSpans:
    """Finds the tokens of a block in responses.

    decode: response ids to text. The text may begin with an opening that is the end of the prompt, such as "<think>".
        This opening has no tokens in the response: `decode` returns it for an empty list of ids.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._pieces: dict[int, str] = {}
        self._opening: str | None = None

    def of(self, text: str, token_ids: Sequence[int], tag: str) -> Span:
        """The tokens inside the last block <tag>...</tag> of a response, as (start, end) of a slice; (0, 0) if there is
        no block or it is empty. A token that is partly inside and partly of a tag counts. If a character inside has
        several tokens, all of them count. text: the whole response, as `decode` returns it for all `token_ids`.

        Example: tokens "so <", "answer", ">", "4", " km</", "answer", ">" and the tag "answer": tokens 3 and 4, (3, 5).
        """
        block = block_span(text, tag)
        if block is None or block[0] == block[1]:
            return (0, 0)
        length = self._lengths(text, token_ids)
        counts = range(len(token_ids) + 1)
        start = max(bisect_right(counts, block[0], key=length) - 1, 0)  # 0 for a block that begins in the opening
        stop = bisect_right(counts, block[1], key=length) - 1  # the most tokens with nothing of the closing tag
        return start, stop if length(stop) == block[1] else stop + 1

    def _lengths(self, text: str, token_ids: Sequence[int]) -> Callable[[int], int]:
        """A function k -> length of the text of the first k tokens, which never falls."""
        if self._opening is None:
            self._opening = self._decode(())
        for token_id in token_ids:
            if token_id not in self._pieces:
                self._pieces[token_id] = self._decode((token_id,)).removeprefix(self._opening)
        pieces = [self._pieces[token_id] for token_id in token_ids]
        if self._opening + "".join(pieces) == text:
            return list(accumulate(map(len, pieces), initial=len(self._opening))).__getitem__
        # If a character has several tokens, none of them alone has its text. So decode the first `count` tokens.
        return lambda count: len(self._decode(token_ids[:count]))
