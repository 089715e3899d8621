"""Choose the next prompts of the training files for rounds of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from mars.data.order.stream import PromptStream
from mars.types import Prompt


@dataclass(frozen=True)
class Place:
    """Where the next `walk` continues.

    position: the first position of the stream that has not been visited.
    waiting: visited positions that come first in the next round. They were put off because their round already had the
        same prompt, from the previous epoch.
    """

    position: int = 0
    waiting: tuple[int, ...] = ()


def walk(stream: PromptStream, place: Place, count: int, left_out: Collection[str]) -> tuple[list[Prompt], Place]:
    """The next `count` different prompts, and the place after them.

    stream: with one prompt per batch, so that batch i is the prompt at position i.
    left_out: ids of prompts to skip. If fewer than `count` others exist, all of them are returned.
    """
    found: dict[str, Prompt] = {}
    again, waiting, position = list[int](), deque(place.waiting), place.position
    while len(found) < count and position < place.position + 2 * len(stream):
        if waiting:
            tried = waiting.popleft()
        else:
            tried, position = position, position + 1
        (prompt,) = stream.batch(tried)
        if prompt.prompt_id in found:
            again.append(tried)
        elif prompt.prompt_id not in left_out:
            found[prompt.prompt_id] = prompt
    if len(found) < count:
        again = []  # the round has all prompts, so none has to wait
    return [*found.values()], Place(position, (*again, *waiting))
