"""Views of a prompt: the sources that a view shows, and its messages and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from mars.data.prompts.labels import without_labels
from mars.types import IMAGE_MARKER, ImageRef, Message, Prompt, View

PUNCTUATION = tuple(".,;:!?)")

AnchorKind = Literal["none", "mono", "all_but_one", "forced_source"]
ImageLayout = Literal["single", "repeated"]


def anchor_views(prompt: Prompt, anchor_kind: AnchorKind) -> tuple[View, ...]:
    """The anchor views of a prompt, in source order. "mono" is the MARS paper's (arXiv 2605.25437).

    none -> ().
    mono -> one view per source.
    forced_source -> the same views, but their requests show all images (mars/rollout/forced_starts.py).
    all_but_one -> for each source, the view of all other sources.

    A prompt with fewer than two sources has no anchor views.

    Example: sources visible, infrared, depth with all_but_one give
    (("infrared", "depth"), ("visible", "depth"), ("visible", "infrared")).
    """
    names = tuple(source.name for source in prompt.sources)
    if anchor_kind not in get_args(AnchorKind):
        raise ValueError(f"anchor_kind must be one of {', '.join(get_args(AnchorKind))}; got {anchor_kind!r}")
    if anchor_kind == "none" or len(names) < 2:
        return ()
    if anchor_kind in ("mono", "forced_source"):
        return tuple((name,) for name in names)
    return tuple(tuple(other for other in names if other != name) for name in names)


def render_view(
    prompt: Prompt, view: View, image_layout: ImageLayout
) -> tuple[tuple[Message, ...], tuple[ImageRef, ...]]:
    """Messages and images of one view, with as many "<image>" markers as images.

    view None: the messages as they are and all images.
    "single": one marker and one image for each shown source. The messages are `prompt.view_messages[view]` if it is
        there. Otherwise they are the prompt's messages without the markers of other sources. Of the white space around
        such a marker, `_close_gap` keeps a part: "<image>\\n<image>\\nHow many?" reads "<image>\\nHow many?".
    "repeated": the messages stay, and the one source of a mono view fills every marker's place. A view of several
        sources raises ValueError. So does an unknown source, with either layout.
    """
    if view is None:
        return prompt.messages, tuple(source.image for source in prompt.sources)
    images = _images(prompt, view)
    if image_layout == "repeated":
        if len(view) != 1:
            raise ValueError(f"image_layout 'repeated' shows one source in all slots; got view {view}")
        return prompt.messages, (images[view[0]],) * len(prompt.sources)
    if image_layout != "single":
        raise ValueError(f"image_layout must be single or repeated; got {image_layout!r}")
    shown = tuple(image for name, image in images.items() if name in view)
    if view in prompt.view_messages:
        return prompt.view_messages[view], shown
    kept = iter([source.name in view for source in prompt.sources])
    messages = []
    for message in prompt.messages:
        pieces = message.text.split(IMAGE_MARKER)
        keep = [next(kept) for _ in pieces[1:]]
        messages.append(Message(message.role, _join(pieces, keep)))
    return tuple(messages), shown


def alone(prompt: Prompt, view: tuple[str, ...]) -> Prompt:
    """The prompt with the sources of a view only, without markers and labels of the others.

    With anchor.wording=per_view, the template is applied to this prompt. For the infrared view,
    "Visible: <image>\\nInfrared: <image>" reads "Infrared: <image>".

    Raises ValueError for a view that the prompt does not have.
    """
    _images(prompt, view)
    messages, first = [], 0
    for message in prompt.messages:
        sources = prompt.sources[first : first + message.text.count(IMAGE_MARKER)]
        names = [source.name for source in sources]
        keep = [name in view for name in names]
        text = message.text
        if not all(keep):
            text = _join(without_labels(text, names, keep, first_number=first + 1), keep)
        messages.append(Message(message.role, text))
        first += len(sources)
    shown = tuple(source for source in prompt.sources if source.name in view)
    return replace(prompt, messages=tuple(messages), sources=shown, view_messages={})


def _images(prompt: Prompt, view: tuple[str, ...]) -> dict[str, ImageRef]:
    """All sources' images by name. Raises ValueError for a view that the prompt does not have."""
    images = {source.name: source.image for source in prompt.sources}
    if not view or set(view) - set(images) or len(set(view)) != len(view):
        raise ValueError(f"{prompt.row}: view {view} of sources {tuple(images)}")
    return images


def _join(pieces: Sequence[str], keep: Sequence[bool]) -> str:
    """The text without the removed markers. pieces: the texts between the markers. keep: which markers are kept."""
    text = pieces[0]
    for i, (piece, kept) in enumerate(zip(pieces[1:], keep, strict=True)):
        is_last = i == len(keep) - 1
        text = text + IMAGE_MARKER + piece if kept else _close_gap(text, piece, is_last)
    return text


def _close_gap(left: str, right: str, is_last: bool) -> str:
    """Join the texts around a removed marker. Of the run of white space before it and the run after it, keep only one.

    The run with more line breaks is kept; if equal, the longer run. No white space is kept at the start or the end of
    the message. Before punctuation, white space is kept only if it has a line break.
    """
    before, after = left.rstrip(), right.lstrip()
    if not before:
        return after
    if is_last and not after:
        return before
    gaps = (left[len(before) :], right[: len(right) - len(after)])
    gap = max(gaps, key=lambda space: (space.count("\n"), len(space)))
    if after[:1] in PUNCTUATION and "\n" not in gap:
        gap = ""
    return before + gap + after
