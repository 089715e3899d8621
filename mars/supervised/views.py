"""Which rows of a cold start are shown as a mono view: one of their sources alone, with its part of the prompt."""

from __future__ import annotations

import re
from hashlib import blake2b

from mars.data.prompts.label_text import name_pattern
from mars.data.prompts.views import anchor_views
from mars.types import Prompt, View


def usable_views(prompt: Prompt) -> tuple[View, ...]:
    """The mono views of a row that have a response, in source order; none for a row with fewer than two sources.

    A row with `mono_responses` has the views that they name. Otherwise a view takes the row's `response`, unless that
    names a source which the view does not show: training on it would teach to describe an image that is not there.

    Example: "The infrared image shows two people" is a response for the view of infrared, not for that of visible.
    """
    views = anchor_views(prompt, "mono")
    if prompt.mono_responses:
        return tuple(view for view in views if view is not None and view[0] in prompt.mono_responses)
    named = {source.name for source in prompt.sources if _is_named(source.name, prompt.response or "")}
    return tuple(view for view in views if named <= set(view or ()))


def chosen_view(prompt: Prompt, mono_ratio: float, seed: int, epoch: int) -> View:
    """The view that an epoch shows of a row; None: all its images.

    Of the rows with usable views the share `mono_ratio` is shown as one of these, all equally often. The choice depends
    on the arguments alone, so that a resumed run makes it again.
    """
    views = usable_views(prompt) if mono_ratio > 0 else ()
    if not views:
        return None
    digest = blake2b(f"{seed}:{epoch}:{prompt.prompt_id}".encode(), digest_size=16).digest()
    if int.from_bytes(digest[:8]) >= mono_ratio * 2**64:
        return None
    return views[int.from_bytes(digest[8:]) % len(views)]


def response_of(prompt: Prompt, view: View) -> str:
    """The response to train on. Raises ValueError for a row without one."""
    own = None if view is None else prompt.mono_responses.get(view[0])
    response = prompt.response if own is None else own
    if response is None:
        raise ValueError(f"{prompt.row}: the row has no response, which a cold start needs")
    return response


def _is_named(source: str, text: str) -> bool:
    return re.search(name_pattern(source), text, re.IGNORECASE) is not None
