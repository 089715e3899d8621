"""The data of one training step, stage by stage. All classes are frozen, and none holds tensors or pixels.

    Prompt -> RolloutRequest -> Completion -> Rollout -> RolloutGroup -> PromptRollouts -> SampledPrompt -> TrainBatch

`TrainBatch` and its parts are in mars/train_types.py. Identity is explicit: a prompt is identified by its `prompt_id`,
a view by its source names, or None for all (`View`). Nothing is inferred from order, shape or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mars.errors import DataError
from mars.extra_facts import ExtraFacts

IMAGE_MARKER = "<image>"  # marks the place of one image in a message's text
MESSAGE_ROLES = ("system", "user", "assistant")
THOUSANDTHS = (1000, 1000)  # the frame of boxes in thousandths of an image's sides (`RewardInput`)
MAX_SCORE = 1e6  # bound of |score|, penalties included; the squares of larger numbers lose digits or overflow
View = tuple[str, ...] | None
"""The sources that a prompt shows: None for the multi view (all sources), ("infrared",) for a mono view."""


def view_name(view: View) -> str:
    """The view's name in metrics and files: "multi", or its sources joined by "+", such as "rgb+depth"."""
    return "multi" if view is None else "+".join(view)


@dataclass(frozen=True)
class ImageRef:
    """Where an image is: a file, or a cell of a parquet file (its `row` and the `slot` in that row's `images` list).

    encoding: how stored values become RGB; "rgb" for 8 bits, a depth encoding for 16 bits (pixels/images.py).
    size: (width, height) of the stored image in pixels, after EXIF rotation. resized: size to decode to; None: `size`.
    """

    path: str
    size: tuple[int, int]
    encoding: str = "rgb"
    row: int | None = None
    slot: int | None = None
    resized: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """One named image of a scene: "visible", "infrared", "depth", "view_1" ..."""

    name: str
    image: ImageRef


@dataclass(frozen=True)
class Message:
    """One chat turn. The "<image>" markers of all turns together are one per image, in the order of the sources."""

    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """One row of a data set: a question about K named sources, and its truth.

    prompt_id: hash of (data set fingerprint, index of the file, row number), the same in every run and epoch.
    row: "file:row", for errors. view_messages: messages of views with their own wording (anchor.wording=per_view).
    truth: text (boxes as JSON text). response: an example for the supervised cold start, else None.
    mono_responses: source -> an example response to the image of this source alone.
    """

    prompt_id: str
    row: str
    data_source: str
    messages: tuple[Message, ...]
    sources: tuple[Source, ...]
    truth: str
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    response: str | None = None
    view_messages: Mapping[View, tuple[Message, ...]] = field(default_factory=dict)
    mono_responses: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        markers = sum(message.text.count(IMAGE_MARKER) for message in self.messages)
        if markers != len(self.sources):
            raise DataError(f"{self.row}: {markers} <image> markers in the prompt, {len(self.sources)} images")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise DataError(f"{self.row}: source names must differ; got {names}")


@dataclass(frozen=True)
class Sampling:
    """How to sample a request. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int


@dataclass(frozen=True)
class RolloutRequest:
    """Asks for `num_samples` responses to one view of one prompt; sample k is drawn with seed + k.

    prompt_token_ids: with one placeholder per image, which the engine expands to the image's tokens.
    extra: facts of a recipe's request, else None. Such a request may show other images than the view has.
    response_start: given first tokens of every response. A request with them shows all images, whatever `view` is.
    """

    prompt_id: str
    view: View
    prompt_token_ids: tuple[int, ...]
    images: tuple[ImageRef, ...]
    num_samples: int
    seed: int
    sampling: Sampling
    extra: ExtraFacts | None = None
    response_start: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, View, str | None, int | None]:
        """Identifies the request within a step: prompt, view, name of the extra request, rollout that it is about."""
        extra = self.extra
        return self.prompt_id, self.view, None if extra is None else extra.name, None if extra is None else extra.about


@dataclass(frozen=True)
class Completion:
    """One sampled response. logprobs: one per token, by the distribution it was drawn from. version: of the weights."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str  # "stop" or "length"
    version: int = 0  # as `WeightUpdate.version`; 0: the weights of model.path

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")


@dataclass(frozen=True)
class RewardInput:
    """The arguments of a reward function for one response. Sizes are (width, height); None without images.

    truth_size: frame of the truth's boxes: the row's first image as stored; (1000, 1000) if extra_info has box_space
    norm_1000. response_size: first shown image after smart_resize; (1000, 1000) if the model gives thousandths.
    extra: name of the extra request that it answers (mars/hooks/requests.py), None for a view of the prompt.
    step: training step, from 1; 0 outside training. images: those shown for this response.
    """

    data_source: str
    view: View
    response: str
    truth: str
    truth_size: tuple[int, int] | None
    response_size: tuple[int, int] | None
    extra_info: Mapping[str, Any]
    extra: str | None = None
    step: int = 0
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True)
class RewardResult:
    """score: used in training, within -MAX_SCORE to MAX_SCORE. parts: named values for the metrics.
    accuracy: in [0, 1], reported by evaluation (VQA: 1 if right, else 0; grounding: mean IoU). failed: why there is no
    score (exception, time-out, bad number), else None. A failed sample is in no pool and not trained on, but counted.
    """

    score: float
    accuracy: float
    parts: Mapping[str, float]
    failed: str | None = None


@dataclass(frozen=True)
class Rollout:
    """One scored response. index: its number within its group, from 0. extra: name of its extra request, else None."""

    prompt_id: str
    view: View
    index: int
    text: str
    completion: Completion
    reward: RewardResult
    extra: str | None = None

    @property
    def valid(self) -> bool:
        return self.reward.failed is None


@dataclass(frozen=True)
class RolloutGroup:
    """All rollouts of one view of one prompt, or of one extra request."""

    request: RolloutRequest
    rollouts: tuple[Rollout, ...]

    def __post_init__(self) -> None:
        key = self.request.key[:3]
        if any((rollout.prompt_id, rollout.view, rollout.extra) != key for rollout in self.rollouts):
            raise ValueError(f"a rollout of another prompt, view or extra request in the group of {key}")

    @property
    def valid(self) -> tuple[Rollout, ...]:
        return tuple(rollout for rollout in self.rollouts if rollout.valid)

    @property
    def role(self) -> str | None:
        """The role of the extra request; None for a view."""
        return None if self.request.extra is None else self.request.extra.role

    @property
    def is_sampled(self) -> bool:
        """Whether an engine sampled the rollouts."""
        extra = self.request.extra
        return extra is None or (self.request.num_samples > 0 and not extra.injected)

    @property
    def is_copy(self) -> bool:
        """Whether the rollouts are also in an anchor group. Metrics of sampling count them only there."""
        return self.request.extra is not None and self.request.extra.of_anchor


@dataclass(frozen=True)
class PromptRollouts:
    """A prompt with its multi, anchor and extra groups, which are kept, dropped or carried together. other_pool: the
    anchors in the pool, if these are not `anchors`; else None."""

    prompt: Prompt
    multi: RolloutGroup
    anchors: tuple[RolloutGroup, ...]
    extras: tuple[RolloutGroup, ...] = ()
    other_pool: tuple[RolloutGroup, ...] | None = None

    def __post_init__(self) -> None:
        for group in (self.multi, *self.anchors, *self.extras, *(self.other_pool or ())):
            if group.request.prompt_id != self.prompt.prompt_id:
                raise ValueError(f"group of prompt {group.request.prompt_id} under prompt {self.prompt.prompt_id}")

    @property
    def multi_groups(self) -> tuple[RolloutGroup, ...]:
        """The groups whose responses are trained with the multi prompt: the multi group and those of role "guest"."""
        return (self.multi, *(group for group in self.extras if group.role == "guest"))

    @property
    def pool_anchors(self) -> tuple[RolloutGroup, ...]:
        """The anchors in the pool. Metrics of the anchors use `anchors` instead."""
        return self.anchors if self.other_pool is None else self.other_pool

    @property
    def own_groups(self) -> tuple[RolloutGroup, ...]:
        """The extra groups that are trained with their own prompts."""
        return tuple(group for group in self.extras if group.role == "own_group")

    @property
    def trained(self) -> tuple[Rollout, ...]:
        """The valid rollouts of `multi_groups`: each has an advantage."""
        return tuple(rollout for group in self.multi_groups for rollout in group.valid)


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt's rollouts, and an advantage and a weight for each of `rollouts.trained`.

    carried: sampled in an earlier step. own_groups: one SampledPrompt per own group: its `rollouts.multi` is the group.
    """

    rollouts: PromptRollouts
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    carried: bool = False
    own_groups: tuple[SampledPrompt, ...] = ()


@dataclass(frozen=True)
class WeightUpdate:
    """A version of the policy's weights. payload: what the engine needs to fetch them, such as a Ray reference."""

    version: int
    payload: Any


@dataclass(frozen=True)
class TokenRules:
    """Special ids. blocked_ids (media tokens, ids beyond the tokenizer) get probability 0 in engine and trainer.

    image_id: stands once per image in a prompt, and once per token of the image in the expanded prompt.
    image_start, image_end: tokens added before and after the tokens of an image; () if the chat template has them.
    """

    image_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    blocked_ids: tuple[int, ...]
    image_start: tuple[int, ...] = ()
    image_end: tuple[int, ...] = ()
