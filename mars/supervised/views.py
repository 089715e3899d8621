"""Which mono views of a row a cold start can train on, and which of them, if any, it shows in an epoch."""

from __future__ import annotations

import re
from functools import cache
from hashlib import blake2b

from mars.data.prompts.label_text import NOUN, ORDINALS, name_pattern
from mars.data.prompts.views import anchor_views
from mars.types import Prompt, View

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_HAN = "一二三四五六七八"
_HAN_IMAGE = "(?:图像|圖像|图片|圖片|照片|图|圖)"
# Words for several images, or for one image by its position among several: "the left image".
_SEVERAL = re.compile(
    r"\b(?:image|photo|photograph|picture|view|frame|source)s\b|\bthe (?:former|latter)\b"
    rf"|\b(?:both|other|left|right|top|bottom|upper|lower|middle|last|next|previous)(?:[\s-]hand)? {NOUN}\b"
    rf"|(?<!第)[两兩三四]\s*[张張幅个個]\s*{_HAN_IMAGE}",
    re.IGNORECASE,
)


def usable_views(prompt: Prompt) -> tuple[View, ...]:
    """The mono views of a row that have a response, in source order; none for a row with fewer than two sources.

    A row with `mono_responses` has the views that they name. Otherwise a view gets the row's `response`, unless the
    response speaks of an image that the view does not show: by its source, by its number, or with words for several
    images.

    Example: "The infrared image shows two people" is a response for the view of infrared, not for that of visible.
    "The second image is darker" is one for the view of the second source. "Both images show a car" is one for no view.
    """
    views = anchor_views(prompt, "mono")
    if prompt.mono_responses:
        return tuple(view for view in views if view is not None and view[0] in prompt.mono_responses)
    response = prompt.response or ""
    if _SEVERAL.search(response):
        return ()
    named = {source.name for i, source in enumerate(prompt.sources) if _is_named(source.name, i, response)}
    return tuple(view for view in views if named <= set(view or ()))


def chosen_view(prompt: Prompt, mono_ratio: float, seed: int, epoch: int) -> View:
    """The view of a row that an epoch shows; None: all its images.

    The share `mono_ratio` of the rows with usable views is shown as one of these views, each with the same probability.
    The choice depends only on the arguments, so a resumed run makes the same choice.
    """
    views = usable_views(prompt) if mono_ratio > 0 else ()
    if not views:
        return None
    digest = blake2b(f"{seed}:{epoch}:{prompt.prompt_id}".encode(), digest_size=16).digest()
    if int.from_bytes(digest[:8]) >= mono_ratio * 2**64:
        return None
    return views[int.from_bytes(digest[8:]) % len(views)]


def response_of(prompt: Prompt, view: View) -> str:
    """The response to train on. Raises ValueError if the row has none."""
    own = None if view is None else prompt.mono_responses.get(view[0])
    response = prompt.response if own is None else own
    if response is None:
        raise ValueError(f"{prompt.row}: the row has no response, which a cold start needs")
    return response


def _is_named(source: str, place: int, text: str) -> bool:
    """Whether a text names the source, or numbers the source's image: "Image 2", "the second".

    place: of the image in the prompt, from 0: "Image 2" has place 1.
    """
    return re.search(f"{name_pattern(source)}|{_numbered(place)}", text, re.IGNORECASE) is not None


@cache
def _numbered(place: int) -> str:
    number = place + 1
    suffixed = rf"{number}(?:st|nd|rd|th)"
    counted, ordinal, letter, han = rf"{number}(?!\d)", suffixed, "(?!)", str(number)
    if place < len(ORDINALS):
        counted = rf"(?:{counted}|{_NUMBERS[place]}\b)"
        ordinal, letter, han = (
            f"(?:{suffixed}|{ORDINALS[place]})",
            rf"(?-i:{chr(65 + place)}\b)",
            f"[{number}{_HAN[place]}]",
        )
    return "|".join(
        (
            # "Image 2", "image #2", "photo no. two", "<image_2>", '{"image": 2}', "Image B"
            rf"\b{NOUN}(?:[\s_#.-]*|[\"']\s*:\s*)(?:no\.?\s*)?(?:{counted}|{letter})",
            # "the second", "2nd image", "second thermal image"
            rf"\bthe {ordinal}\b|\b{ordinal}\s+(?:\w+\s+)?{NOUN}\b",
            rf"第\s*{han}(?!\d)\s*[张張幅个個]|{_HAN_IMAGE}\s*{han}(?!\d)",
        )
    )
