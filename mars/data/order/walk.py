"""The next prompts of the training files for rounds of any size, so that each prompt gets its turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from mars.data.order.stream import PromptStream
from mars.types import Prompt


@dataclass(frozen=True)
class Place:
    """Where a `walk` goes on. position: the next one that it has not met.

    waiting: positions before it whose prompts come first: their round had the prompt already, from the epoch before.
    """

    position: int = 0
    waiting: tuple[int, ...] = ()


def walk(stream: PromptStream, place: Place, count: int, left_out: Collection[str]) -> tuple[list[Prompt], Place]:
    """The next `count` different prompts, and the place after them. Each position of the stream gets its turn.

    stream: in batches of one prompt, one for each position.
    Prompts whose ids are in `left_out` are passed over. If there are not enough others, fewer are found: all others.
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
        again = []  # the round has all prompts, so that none need wait
    return [*found.values()], Place(position, (*again, *waiting))
