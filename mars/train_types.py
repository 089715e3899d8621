"""What the trainer gets: the prompts and responses of one step, and their split into updates, ranks and forwards.

All classes are frozen, and none holds tensors or pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mars.types import ImageRef

Packing = Literal["shared_prefix", "padded"]
"""The rows of a forward: each prompt once, followed by its responses; or each row a sequence of its own, padded."""


@dataclass(frozen=True)
class TrainResponse:
    """One response to train on; all its tokens have the same advantage.

    off_policy: sampled with another prompt, or given as text; `rollout_logprobs` are then not used.
    bounded: whether the probability ratio of the tokens of an off-policy response is clipped (algorithm.clip_low,
        clip_high). That of an on-policy response always is.
    is_guest: whether the response is a guest that was sampled as an anchor (`anchor.guide`); false for other guests.
        The metric mars/guide/logprob is computed from these responses only.
    weight: finite, >= 0; multiplies the loss of the response. 0 removes the response from loss and denominators.
    """

    token_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    advantage: float
    weight: float
    off_policy: bool = False
    bounded: bool = False
    is_guest: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of a response must be finite and not negative; got {self.weight}")


@dataclass(frozen=True)
class TrainPrompt:
    """A prompt with its responses. num_prompt_tokens: including image tokens.

    temperature: with which its responses were sampled and their log-probs are computed; > 0.
    carried: was beyond the quota of an earlier step, so this step trains on it first.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    num_prompt_tokens: int
    images: tuple[ImageRef, ...]
    responses: tuple[TrainResponse, ...]
    temperature: float
    carried: bool = False


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward: (index in `TrainBatch.prompts`, index in that prompt's responses).

    The last `num_fillers` rows are not trained on. FSDP needs the same number of forwards on all ranks. Within an
    update, either all forwards or none must have an image. Fillers are added until both hold.
    """

    rows: tuple[tuple[int, int], ...]
    num_fillers: int = 0


@dataclass(frozen=True)
class UpdatePlan:
    """One optimizer step: the micro-batches of each rank, the same number for all. Apart from fillers, each row of the
    update is in exactly one micro-batch, once."""

    ranks: tuple[tuple[MicroBatch, ...], ...]

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """`MicroBatch.rows` of all ranks together, without fillers, in batch order."""
        return tuple(sorted(row for rank in self.ranks for m in rank for row in m.rows[: len(m.rows) - m.num_fillers]))


@dataclass(frozen=True)
class TrainBatch:
    """The prompts that one step trains on, and their split into updates, ranks and forwards.

    step: its number, from 1, on which random changes of images depend. settings: the step's value of each setting that
    has a ramp, by key.
    """

    prompts: tuple[TrainPrompt, ...]
    updates: tuple[UpdatePlan, ...]
    step: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)
