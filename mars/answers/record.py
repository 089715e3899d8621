"""The record of one model answer, in files of `mars eval infer` and in a run's rollout and evaluation files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mars.extra_facts import ExtraFacts
from mars.types import (
    IMAGE_MARKER,
    Completion,
    ImageRef,
    Message,
    Prompt,
    PromptRollouts,
    RewardInput,
    RewardResult,
    Rollout,
    RolloutRequest,
    Source,
    View,
    view_name,
)

Size = tuple[int, int]
FORCED = "forced_source"
"""`Answer.extra` of responses with a given start: their view names one source, but they saw all sources. No extra
request can have this name."""
BoxFrames = Callable[[Prompt, View], tuple[Size | None, Size | None]]
"""(truth_size, response_size) of a view, as in `RewardInput`."""

PromptLength = Callable[[RolloutRequest], int]
"""Number of tokens in a request's prompt, images expanded."""


@dataclass(frozen=True)
class Answer:
    """One answer to one view of one question, with everything needed to score and show it.

    prompt_id: hash of data set and row, see `Prompt`. number: position of the question among those of the file.
    row: "file:row" of the question. view: None for the multi view, ("infrared",) for a mono view.
    sample: index of this answer among the answers to the same view, or to the same extra request, from 0.
    extra: for an answer to a recipe's extra request, the request's name; for an anchor whose start was given,
        "forced_source" (`anchor.kind`); None for any other answer. `truth` is the extra
        request's own, if it has one.
    about: for an answer to an extra request about another answer (to the same view), the `sample` of that answer.
    truth_size, response_size: (width, height) that the coordinates of the boxes in truth and response refer to, as in
        `RewardInput`; both None where unknown.
    finish_reason: "stop" or "length". finish_reason, prompt_tokens and response_tokens are None where unknown.
    question, sources: all messages and sources of the question, not only those of the view; () where unknown. For an
        answer to an extra request, they are those of the prompt, not of the request.
    reward: what the run's reward function gave when the answer was sampled, penalties included; None if not scored.
    guest: of an answer to an anchor view: whether it was trained on with the multi prompt (`anchor.guide`).
    step: training step in which a run recorded the answer; None outside of a run.
    """

    prompt_id: str
    number: int
    row: str
    data_source: str
    view: View
    sample: int
    text: str
    truth: str
    truth_size: Size | None
    response_size: Size | None
    extra_info: Mapping[str, Any]
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    question: tuple[Message, ...] = ()
    sources: tuple[Source, ...] = ()
    reward: RewardResult | None = None
    step: int | None = None
    extra: str | None = None
    about: int | None = None
    guest: bool = False

    @property
    def key(self) -> tuple[str, View, str | None, int | None, int]:
        """Identifies the answer within a file."""
        return self.prompt_id, self.view, self.extra, self.about, self.sample

    @property
    def order(self) -> tuple[int, str, bool, tuple[int, ...], str, str, int, int]:
        """Sort key: question; multi view, then views in the order of the question's sources; sample. Answers with
        `extra` (to extra requests, or with a given start) are the last of a question."""
        names = [source.name for source in self.sources]
        places = tuple(names.index(name) if name in names else len(names) for name in self.view or ())
        extra, about = self.extra or "", -1 if self.about is None else self.about
        is_extra = self.extra is not None
        return self.number, self.prompt_id, is_extra, places, view_name(self.view), extra, about, self.sample

    @property
    def label(self) -> str:
        """What was asked: "multi", or "multi, blind of 3" for the extra request "blind" about answer 3 of the view."""
        if self.extra is None:
            return view_name(self.view)
        about = "" if self.about is None else f" of {self.about}"
        return f"{view_name(self.view)}, {self.extra}{about}"

    @property
    def reward_input(self) -> RewardInput:
        """What a reward function sees of this answer."""
        return RewardInput(
            data_source=self.data_source,
            view=self.view,
            response=self.text,
            truth=self.truth,
            truth_size=self.truth_size,
            response_size=self.response_size,
            extra_info=self.extra_info,
            extra=None if self.extra == FORCED else self.extra,
            step=self.step or 0,
            images=_shown(self.sources, None if self.extra == FORCED else self.view),
        )


def _shown(sources: Sequence[Source], view: View) -> tuple[ImageRef, ...]:
    return tuple(source.image for source in sources if view is None or source.name in view)


def reward_input(
    prompt: Prompt, view: View, text: str, frames: BoxFrames, step: int = 0, request: RolloutRequest | None = None
) -> RewardInput:
    """What a reward function sees of `text` as an answer to one view of a prompt, or to an extra request.

    request: the request that `text` answers, if any.
    """
    truth_size, response_size = _sizes(prompt, view, frames, request)
    extra = None if request is None else request.extra
    return RewardInput(
        data_source=prompt.data_source,
        view=view,
        response=text,
        truth=_truth(prompt, extra),
        truth_size=truth_size,
        response_size=response_size,
        extra_info=prompt.extra_info,
        extra=None if extra is None else extra.name,
        step=step,
        images=_shown(prompt.sources, view) if request is None else request.images,
    )


def _sizes(
    prompt: Prompt, view: View, frames: BoxFrames, request: RolloutRequest | None
) -> tuple[Size | None, Size | None]:
    """(truth_size, response_size) of an answer. An extra request with images is answered in the frame of its first
    image. Its truth is in the frame of the row's truth or, if the row has no images, of that first image. If a request
    gives the start of the response, it shows all images, and both frames are those of the multi view."""
    truth_size, response_size = frames(prompt, None if request is not None and request.response_start else view)
    if request is None or request.extra is None or not request.images:
        return truth_size, response_size
    messages, sources = (Message("user", IMAGE_MARKER),), (Source("shown", request.images[0]),)
    own = frames(replace(prompt, messages=messages, sources=sources, view_messages={}, mono_responses={}), None)
    return own if truth_size is None else (truth_size, own[1])


def _truth(prompt: Prompt, extra: ExtraFacts | None) -> str:
    return prompt.truth if extra is None or extra.truth is None else extra.truth


def answer_of(
    number: int,
    prompt: Prompt,
    request: RolloutRequest,
    sample: int,
    text: str,
    completion: Completion,
    *,
    frames: BoxFrames,
    prompt_length: PromptLength,
) -> Answer:
    """The record of one completion, without a reward."""
    truth_size, response_size = _sizes(prompt, request.view, frames, request)
    extra = request.extra
    return Answer(
        prompt_id=prompt.prompt_id,
        number=number,
        row=prompt.row,
        data_source=prompt.data_source,
        view=request.view,
        sample=sample,
        text=text,
        truth=_truth(prompt, extra),
        truth_size=truth_size,
        response_size=response_size,
        extra_info=prompt.extra_info,
        finish_reason=completion.finish_reason,
        prompt_tokens=prompt_length(request),
        response_tokens=len(completion.token_ids),
        question=prompt.messages,
        sources=prompt.sources,
        extra=extra.name if extra is not None else FORCED if request.response_start else None,
        about=None if extra is None else extra.about,
    )


def answers_of(
    rollouts: Sequence[PromptRollouts], step: int, *, frames: BoxFrames, prompt_length: PromptLength
) -> list[Answer]:
    """All responses to all views and extra requests, with their rewards. Questions have the order of `rollouts`.

    A prompt that occurs twice in `rollouts` is one question with more samples.
    """
    numbers: dict[str, int] = {}
    samples: Counter[Any] = Counter()
    answers = []
    for item in rollouts:
        number = numbers.setdefault(item.prompt.prompt_id, len(numbers))
        for group in (item.multi, *item.anchors, *(extra for extra in item.extras if not extra.is_copy)):
            request, key = group.request, group.request.key
            for rollout in group.rollouts:
                sample = samples[key]
                samples[key] += 1
                answer = answer_of(
                    number, item.prompt, request, sample, rollout.text, rollout.completion,
                    frames=frames, prompt_length=prompt_length,
                )  # fmt: skip
                answers.append(replace(answer, reward=rollout.reward, step=step, guest=_is_guest(rollout, item)))
    return answers


def _is_guest(rollout: Rollout, item: PromptRollouts) -> bool:
    """Whether this response to an anchor view is a guest of its own prompt. With `anchor.shuffle=both` none is."""
    copies = (guest for group in item.extras if group.is_copy for guest in group.rollouts)
    place = (rollout.view, rollout.index, rollout.completion)
    return any((guest.view, guest.index, guest.completion) == place for guest in copies)


def by_question(answers: Iterable[Answer]) -> list[list[Answer]]:
    """The answers to each question, in the order in which questions first occur."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt_id, []).append(answer)
    return list(groups.values())
