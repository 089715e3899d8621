"""The data of one training step, stage by stage. Every class is frozen; tensors and pixels appear in none of them.

    Prompt -> RolloutRequest -> Completion -> Rollout -> RolloutGroup -> PromptRollouts -> SampledPrompt -> TrainBatch

Images travel as `ImageRef`, tokens as tuples of int. Identity is explicit: a prompt is its `prompt_id`, a view the
tuple of source names it shows. Nothing is inferred from order, shape or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mars.errors import DataError

IMAGE_MARKER = "<image>"  # stands in a message's text for one image
View = tuple[str, ...] | None
"""Which sources a prompt shows: None is the multi view (all of them); ("infrared",) is a mono view."""


@dataclass(frozen=True)
class ImageRef:
    """Where an image is, never its pixels: a file, or a cell of a parquet file (`row`, `slot` in its `images` list).

    `encoding` says how stored values become RGB: "rgb" for 8 bits; 16 bits need a depth encoding (pixels/images.py).
    `size` is (width, height) in pixels of the stored image after EXIF rotation; `resized` what decoding makes of it.
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
    """One chat turn. `text` holds one "<image>" marker for each image it shows, in source order."""

    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """One row of a data set: a question about K named sources, and its truth.

    prompt_id: hash of (data set fingerprint, row); stable over runs, epochs and machines.
    row: "file:row" for messages to the user.
    truth: as text (boxes as JSON text). response: a worked answer for supervised cold start, else None.
    """

    prompt_id: str
    row: str
    data_source: str
    messages: tuple[Message, ...]
    sources: tuple[Source, ...]
    truth: str
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    response: str | None = None

    def __post_init__(self) -> None:
        markers = sum(message.text.count(IMAGE_MARKER) for message in self.messages)
        if markers != len(self.sources):
            raise DataError(f"{self.row}: {markers} <image> markers in the prompt, {len(self.sources)} images")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise DataError(f"{self.row}: source names must differ; got {names}")


@dataclass(frozen=True)
class Sampling:
    """How one request is sampled. temperature 0 is greedy. Response length in tokens."""

    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int


@dataclass(frozen=True)
class RolloutRequest:
    """`num_samples` responses wanted for one view of one prompt.

    prompt_token_ids: one media placeholder per image, not yet expanded to the image's tokens.
    seed: sample k is drawn with seed + k.
    """

    prompt_id: str
    view: View
    prompt_token_ids: tuple[int, ...]
    images: tuple[ImageRef, ...]
    num_samples: int
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One sampled response. `logprobs` are the engine's, of the distribution it sampled from; same length."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str  # "stop" or "length"

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")


@dataclass(frozen=True)
class RewardInput:
    """What a reward function sees of one answer.

    truth_size: (width, height) of the frame the truth's boxes are written in (the first source's stored pixels, or
        (1000, 1000) for rows whose box_space is "norm_1000"); None for a prompt without images.
    response_size: the frame the response's boxes are expected in (the first shown image after smart_resize, or
        (1000, 1000) for models that answer in thousandths); None without images.
    """

    data_source: str
    view: View
    response: str
    truth: str
    truth_size: tuple[int, int] | None
    response_size: tuple[int, int] | None
    extra_info: Mapping[str, Any]


@dataclass(frozen=True)
class RewardResult:
    """`score` is what is trained on; `parts` are named components for the metrics.

    accuracy: in [0, 1], what evaluation reports (VQA: right or wrong; grounding: mean IoU).
    failed: the function raised, timed out or returned no finite number; the sample is masked and counted.
    """

    score: float
    accuracy: float
    parts: Mapping[str, float]
    failed: str | None = None


@dataclass(frozen=True)
class Rollout:
    """One scored response. `index` is k within its group."""

    prompt_id: str
    view: View
    index: int
    text: str
    completion: Completion
    reward: RewardResult

    @property
    def valid(self) -> bool:
        return self.reward.failed is None


@dataclass(frozen=True)
class RolloutGroup:
    """All rollouts of one view of one prompt."""

    request: RolloutRequest
    rollouts: tuple[Rollout, ...]

    def __post_init__(self) -> None:
        key = (self.request.prompt_id, self.request.view)
        if any((rollout.prompt_id, rollout.view) != key for rollout in self.rollouts):
            raise ValueError(f"a rollout of another prompt or view in the group of {key}")

    @property
    def valid(self) -> tuple[Rollout, ...]:
        return tuple(rollout for rollout in self.rollouts if rollout.valid)


@dataclass(frozen=True)
class PromptRollouts:
    """A prompt with its multi group and its anchor groups: the unit that is kept, dropped, carried or moved."""

    prompt: Prompt
    multi: RolloutGroup
    anchors: tuple[RolloutGroup, ...]

    def __post_init__(self) -> None:
        for group in (self.multi, *self.anchors):
            if group.request.prompt_id != self.prompt.prompt_id:
                raise ValueError(f"group of prompt {group.request.prompt_id} under prompt {self.prompt.prompt_id}")


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt's rollouts, an advantage and a weight for each valid multi rollout; carried: from an earlier step."""

    rollouts: PromptRollouts
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    carried: bool = False


@dataclass(frozen=True)
class TrainResponse:
    """One response to train on; all its tokens have its advantage. off_policy: it was not sampled under this prompt.

    weight: finite, >= 0; multiplies the response's loss. At 0 its tokens leave the loss and its denominators.
    """

    token_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    advantage: float
    weight: float
    off_policy: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of a response must be finite and not negative; got {self.weight}")


@dataclass(frozen=True)
class TrainPrompt:
    """A prompt with its responses.

    num_prompt_tokens: length in the model's forward, images' tokens counted. carried: sampled in an earlier step.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    num_prompt_tokens: int
    images: tuple[ImageRef, ...]
    responses: tuple[TrainResponse, ...]
    carried: bool = False


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward: (position in `TrainBatch.prompts`, position in its responses).

    The last `num_fillers` rows are untrained: FSDP needs equally many forwards on all ranks, all or none with images.
    """

    rows: tuple[tuple[int, int], ...]
    num_fillers: int = 0


@dataclass(frozen=True)
class UpdatePlan:
    """One optimizer step: for each rank its micro-batches, equally many; every row of the update exactly once."""

    ranks: tuple[tuple[MicroBatch, ...], ...]

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """All weighted rows of the update, over all ranks, in batch order."""
        batches = (batch for micro_batches in self.ranks for batch in micro_batches)
        return tuple(sorted(row for b in batches for row in b.rows[: len(b.rows) - b.num_fillers]))


@dataclass(frozen=True)
class TrainBatch:
    """What one step trains on: whole prompts, and how they are split over updates, ranks and forwards."""

    prompts: tuple[TrainPrompt, ...]
    updates: tuple[UpdatePlan, ...]


@dataclass(frozen=True)
class UpdateStats:
    """Metrics of one `PolicyTrainer.update`, reduced over all ranks, and its seconds spent on old log-probs."""

    metrics: Mapping[str, float]
    old_logprob_seconds: float


@dataclass(frozen=True)
class WeightUpdate:
    """A version of the policy's weights. `payload` is what the transfer needs (a reference, never pixels)."""

    version: int
    payload: Any


@dataclass(frozen=True)
class TokenRules:
    """Special ids. blocked_ids (media tokens, ids beyond the tokenizer) have probability 0 in engine and trainer."""

    image_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    blocked_ids: tuple[int, ...]
