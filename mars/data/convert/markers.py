"""Replace the image tags of public formats by `<image>`, the marker of an image in the text of a row."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mars.data.rows.problems import RowError
from mars.types import IMAGE_MARKER

# LLaVA's <image>, SpatialBot's <image 1>, DEMON's {image#1} and, for pictures of tables, {table#1}.
_TAG = re.compile(r"<image(?:[ _](?P<angle>\d{1,4}))?>|\{(?:image|table)#(?P<brace>\d{1,4})\}")


def count_tags(texts: Sequence[str]) -> int:
    return sum(len(_TAG.findall(text)) for text in texts)


def has_numbers(text: str) -> bool:
    """Whether a text has numbered image tags."""
    return any(match.lastgroup for match in _TAG.finditer(text))


def place_markers(texts: Sequence[str], num_images: int, first: int = 0) -> tuple[list[str], list[int]]:
    """The texts of a conversation with one marker per image, and the images' numbers (from 0) in order of appearance.

    If no text has a tag, all markers go in front of texts[first]. Otherwise every image must have exactly one tag, else
    RowError ("sources").

    >>> place_markers(["<image 2> and <image 1>: which is darker?"], 2)
    (['<image> and <image>: which is darker?'], [1, 0])
    >>> place_markers(["How many?"], 2)
    (['<image><image>\\nHow many?'], [0, 1])
    """
    tags = [match for text in texts for match in _TAG.finditer(text)]
    numbers = [match["angle"] or match["brace"] for match in tags]
    if not tags:
        front = f"{IMAGE_MARKER * num_images}\n" if num_images else ""
        return [*texts[:first], front + texts[first], *texts[first + 1 :]], list(range(num_images))
    if all(number is None for number in numbers):
        order = list(range(len(tags)))
    elif None in numbers:
        raise RowError("sources", f"the text mixes image tags with and without numbers; got {_shown(tags)}")
    else:
        order = [int(number) - 1 for number in numbers if number is not None]
    if sorted(order) != list(range(num_images)):
        raise RowError("sources", f"{num_images} images, but the text has the tags {_shown(tags) or 'none'}")
    return [_TAG.sub(IMAGE_MARKER, text) for text in texts], order


def _shown(tags: Sequence[re.Match[str]]) -> str:
    return ", ".join(tag.group() for tag in tags[:8])
