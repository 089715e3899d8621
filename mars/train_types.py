"""What the trainer gets: the prompts and responses of one step, and their split into updates, ranks and forwards.

All classes are frozen, and none holds tensors or pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mars.types import ImageRef


@dataclass(frozen=True)
class TrainResponse:
    """One response to train on; all its tokens have the same advantage.

    off_policy: sampled with another prompt, or not at all; `rollout_logprobs` are then not used.
    bounded: of an off-policy response: whether the ratio of its tokens is bounded. Of an on-policy one it always is.
    is_guest: of an off-policy response: whether it is an anchor's (`anchor.guide`), for mars/guide/logprob.
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

    temperature: its responses were sampled with it, and are scored with it; > 0.
    carried: was beyond the quota of the previous step, so this one trains on it first.
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

    The last `num_fillers` rows are not trained on. FSDP needs the same number of forwards on all ranks, and in one
    update an image in every forward or in none; fillers are added until this is so.
    """

    rows: tuple[tuple[int, int], ...]
    num_fillers: int = 0


@dataclass(frozen=True)
class UpdatePlan:
    """One optimizer step: the micro-batches of each rank, the same number for all. Has every row exactly once."""

    ranks: tuple[tuple[MicroBatch, ...], ...]

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """All rows of the update over all ranks, without fillers, in batch order."""
        return tuple(sorted(row for rank in self.ranks for m in rank for row in m.rows[: len(m.rows) - m.num_fillers]))


@dataclass(frozen=True)
class TrainBatch:
    """What one step trains on: whole prompts, and their split into updates, ranks and forwards.

    step: its number, from 1, on which random changes of images depend. settings: scheduled values of the step, by key.
    """

    prompts: tuple[TrainPrompt, ...]
    updates: tuple[UpdatePlan, ...]
    step: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)
