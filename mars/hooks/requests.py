"""The hook `recipe.requests`: requests besides a prompt's views, and given texts that count as further responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, Protocol

from mars.hooks.contract import StepFacts
from mars.types import IMAGE_MARKER, ImageRef, Message, Prompt, PromptRollouts, Sampling, View


@dataclass(frozen=True)
class Extra:
    """A request that is sampled besides the views of a prompt.

    name: letters, digits, "_", "-" and "."; metrics have it (`extra/<name>/...`), and rewards see it.
    role: "signal": nothing is trained on. Other hooks and metrics see it.
        "own_group": trained with its own messages and images. Its advantages come from its own rewards alone.
        "guest": trained as if it had been sampled from the multi prompt, and in the pool of the multi rewards unless
            `in_pool` is False.
    messages: with one "<image>" for each of `images`. Both may differ from the prompt's.
    truth: what its responses are scored against; None: they are not scored, which is allowed only for a signal. Boxes
        in it have the frame of the row's truth or, if the row has no images, of the first image here.
    sampling: None: as for multi responses. An own group's may differ from theirs only in max_response_tokens.
    view, about: the view that it belongs to, and the number of the rollout of this view that it is about. No two
        requests of a prompt have the same name, view and about.
    bounded: of a guest: whether the probability ratio of its tokens is bounded, as for multi responses.
    in_pool: of a guest: whether its reward counts in the advantages of other responses. If not, its own advantage is
        its reward minus the mean of the pool, with algorithm.normalize_std divided by the standard deviation of the
        pool with this reward added (`advantages_outside` of mars/algorithms/advantages.py).
    """

    name: str
    role: Literal["signal", "own_group", "guest"]
    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...]
    truth: str | None
    num_samples: int
    sampling: Sampling | None = None
    view: View = None
    about: int | None = None
    bounded: bool = False
    in_pool: bool = True


@dataclass(frozen=True)
class Injected:
    """A text as one more response to the multi prompt: a guest that no engine samples.

    score: its score; None: it is scored like the others. ends: whether the token that ends a response follows it.
    in_pool: as for a guest that is sampled (`Extra`).
    """

    name: str
    text: str
    score: float | None
    ends: bool = True
    in_pool: bool = True


_TYPES: dict[str, Any] = {
    "name": str,
    "messages": tuple | list,
    "images": tuple | list,
    "truth": str | None,
    "num_samples": Integral,
    "sampling": Sampling | None,
    "view": tuple | None,
    "about": Integral | None,
    "text": str,
    "score": Real | None,
}


def wrong_type(asked: Extra | Injected) -> str | None:
    """The first field of a request whose value has a wrong type, for messages; None if there is none.

    >>> wrong_type(Injected("told", 5, None))
    'text=5'
    """
    for one in fields(asked):
        value = getattr(asked, one.name)
        if not isinstance(value, _TYPES.get(one.name, object)):
            return f"{one.name}={value!r}"
    if isinstance(asked, Extra):
        for message in asked.messages:
            if not isinstance(message, Message) or not isinstance(message.text, str):
                return f"the message {message!r}"
        for image in asked.images:
            if not isinstance(image, ImageRef):
                return f"the image {image!r}"
    return None


class ExtraRequests(Protocol):
    """Adds requests to those for a prompt's views. Both methods are pure functions of their arguments, and may be
    called again with the same arguments.

    A request cannot be asked if its text contains a special token, or has more than `data.max_prompt_tokens` tokens
    (the text of an `Injected`: `rollout.max_response_tokens`). Such a request has a group without rollouts, and
    `extra/<name>/left_out` counts it.
    """

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Extra | Injected]:
        """What is asked together with the views, in the same engine call."""
        ...

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Extra | Injected]:
        """What is asked after the responses to the views have scores, still without penalties; () for nothing.

        If the result is () for every prompt, there is no second engine call."""
        ...


def without_images(prompt: Prompt, instruction: str) -> tuple[Message, ...]:
    """The messages of a prompt without its images. The last message is cut at `instruction`, if it contains this text:
    what is left is the question.

    instruction: the beginning of the text that `data.template` adds behind the question. No question may contain it.
    """
    plain = [replace(message, text=message.text.replace(IMAGE_MARKER, "").strip()) for message in prompt.messages]
    question, found, _ = plain[-1].text.rpartition(instruction)
    return (*plain[:-1], replace(plain[-1], text=question.strip()) if found else plain[-1])


def asked_alone(
    item: PromptRollouts,
    name: str,
    text_of: Callable[[str], str | None],
    messages: Callable[[Prompt, str], tuple[Message, ...]],
) -> list[Extra]:
    """A request about each multi response and each anchor. It tests whether a text in the response is enough to find
    the right answer without images.

    Anchors are asked about too, because a shaping adds the result to the rewards, and all rewards in the pool must be
    made in the same way. text_of: response -> the text, None to ask nothing. messages: (prompt, text) -> the request;
    its response is scored with the prompt's truth.
    """
    return [
        Extra(name, "signal", messages(item.prompt, text), (), item.prompt.truth, 1, view=one.view, about=one.index)
        for group in (item.multi, *item.anchors)
        for one in group.rollouts
        if (text := text_of(one.text)) is not None
    ]


def accuracy_about(item: PromptRollouts, name: str) -> list[float]:
    """For each rollout, the accuracy of the answer to the extra request that has the name `name` and asks about this
    rollout.

    Rollouts are those of `item.multi_groups`, then those of the anchors. Accuracies are summed if several answers were
    sampled. The number is 0 for guests, and if no answer was asked or scored.
    """
    found: dict[tuple[View, int | None], float] = {}
    for group in item.extras:
        extra = group.request.extra
        if extra is not None and extra.name == name:
            found[group.request.view, extra.about] = sum(one.reward.accuracy for one in group.valid)
    rollouts = [one for group in (*item.multi_groups, *item.anchors) for one in group.rollouts]
    return [0.0 if one.extra is not None else found.get((one.view, one.index), 0.0) for one in rollouts]


REQUESTS_MEMBERS = {"before": 2, "after": 2}
