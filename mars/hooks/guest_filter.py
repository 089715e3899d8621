"""Which anchor responses make sense as answers to the multi prompt, and may be guests (`anchor.guide`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mars.errors import ConfigError
from mars.hooks.image_references import references_in
from mars.plugin import UserFunction, load
from mars.rewards.box_mentions import mentions_boxes
from mars.types import ImageRef, Prompt, PromptRollouts, Rollout, RolloutGroup, View
from mars.users_code import calling

FILTER = "anchor.guide_filter"
FILTER_WANTED = "a function (response, view, prompt) -> bool, named path/to/file.py:function"

Frames = Callable[[Prompt, View], tuple[Any, Any]]
"""(prompt, view) -> (frame of the truth's boxes, frame of the response's boxes)."""


@dataclass(frozen=True)
class GuestCheck:
    """Tells which responses may be guests.

    frames: gives the frames of boxes. own: the user's function, called last, or None.
    """

    frames: Frames
    own: UserFunction | None = None

    def __call__(self, item: PromptRollouts, group: RolloutGroup, rollout: Rollout) -> bool:
        """Whether a response of an anchor group may be trained on with the multi prompt. Not if

        - it was cut at the token limit;
        - it may have boxes or points (`mentions_boxes`) in another frame than that of the multi view, because the first
          image differs in size;
        - it refers to an image by a number, an order or a count that is wrong for the multi prompt, such as "image 1"
          for an image that is the second there, or "the only image";
        - the user's function returns False.

        Raises ConfigError if the user's function raises or returns no bool.
        """
        if rollout.completion.finish_reason == "length":
            return False
        shown, whole = group.request.images, item.multi.request.images
        if shown[:1] != whole[:1] and mentions_boxes(rollout.text):
            frames = (self.frames(item.prompt, view)[1] for view in (rollout.view, None))
            if len(set(frames)) > 1:
                return False
        return refers_alike(rollout.text, shown, whole) and (self.own is None or self._asked(rollout, item.prompt))

    def _asked(self, rollout: Rollout, prompt: Prompt) -> bool:
        assert self.own is not None  # the caller has checked it
        where = f"{FILTER}: {self.own.spec} on a response to {prompt.row}"
        with calling(f"{where} failed"):
            allowed = self.own.call(rollout.text, rollout.view, prompt)
        if not isinstance(allowed, bool):
            raise ConfigError(f"{where} is no bool; got {allowed!r}; return True or False")
        return allowed


def refers_alike(text: str, shown: Sequence[ImageRef], whole: Sequence[ImageRef]) -> bool:
    """Whether all references to images in `text`, written about the images `shown`, are right for `whole` too.

    A number ("image 2") or a place ("the first", "the last image") must mean the same image in both. A count ("both
    images") must be the number of images in `whole`.
    Example: `shown` is the infrared image, `whole` is visible and infrared. "image 1" and "the only image" mean
    something else with `whole` and give False; "the infrared image" and "both images" give True.
    """
    if tuple(shown) == tuple(whole):
        return True
    found = references_in(text)
    if found.counts - {len(whole)}:
        return False
    last = bool(shown) and shown[-1] == whole[-1]
    alike = [one == other for one, other in zip(shown, whole, strict=False)]
    return all(last if place is None else 0 < place <= len(alike) and alike[place - 1] for place in found.places)


def load_filter(spec: str | None) -> UserFunction | None:
    """The function that `spec` names; None if `spec` is None.

    spec: the value of `anchor.guide_filter`, with the absolute path of the file.
    Raises ConfigError for a function that cannot be loaded or does not take (response, view, prompt).
    """
    if spec is None:
        return None
    function = load(FILTER, spec, FILTER_WANTED)
    function.check_call("a response", ("a source",), None)
    return function
