"""The tensors of one forward: each distinct image once, and the tokens as padded rows or as a pack.

This module makes the padded rows, one per (prompt, response).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mars.actor.prefix_attention import SharedPrefixLayout
from mars.train_types import MicroBatch, TrainBatch
from mars.types import ImageRef

ResponseIds = tuple[int, ...]


class ProcessedPrompt(Protocol):
    """A prompt as tensors, from mars/data/prompts/processor.py."""

    @property
    def input_ids(self) -> Tensor: ...
    @property
    def pixel_values(self) -> tuple[Tensor, ...]: ...
    @property
    def image_grid_thw(self) -> tuple[tuple[int, int, int], ...]: ...
    @property
    def image_keys(self) -> tuple[ImageRef, ...]: ...


PositionsOf = Callable[[ProcessedPrompt], Tensor]
"""The positions of a prompt's tokens: int64 [A, P], see `PolicyModel.positions`."""


@dataclass(frozen=True)
class ForwardBatch:
    """B rows padded on the right to L tokens, or a pack as one row (B = 1); T response tokens in all.

    input_ids: int64 [B, L]. position_ids: int64 [A, B, L]: A = 3 axes (time, height, width) for M-RoPE, else 1.
    pixel_values: float32, the distinct images one after the other; None without images.
    image_grid_thw: int64 [distinct images, 3]; None without images.
    image_index: for each image of the rows, row by row, its index among the distinct images.
    targets: int64 [T], response tokens, response by response. The hidden state at [token_rows, token_columns] predicts
        each target.
    lengths: int64 [responses], tokens of each response.
    layout: the tokens that each token of a pack attends to (prefix_attention.py); None for padded rows.
    temperatures: float32 [T], of each response token; None: all have `rollout.temperature`.
    """

    input_ids: Tensor
    position_ids: Tensor
    pixel_values: Tensor | None
    image_grid_thw: Tensor | None
    image_index: tuple[int, ...]
    targets: Tensor
    token_rows: Tensor
    token_columns: Tensor
    lengths: Tensor
    layout: SharedPrefixLayout | None
    temperatures: Tensor | None = None

    def to(self, device: torch.device) -> ForwardBatch:
        movable = (Tensor, SharedPrefixLayout)
        moved = {k: v.to(device) if isinstance(v, movable) else v for k, v in vars(self).items()}
        return ForwardBatch(**moved)


def with_temperatures(forward: ForwardBatch, batch: TrainBatch, micro: MicroBatch, usual: float) -> ForwardBatch:
    """The forward with the temperatures at which the responses were sampled, if one of them differs from `usual`."""
    found = [batch.prompts[prompt].temperature for prompt, _ in micro.rows]
    if all(temperature == usual for temperature in found):
        return forward
    by_response = torch.tensor(found, dtype=torch.float32, device=forward.lengths.device)
    return replace(forward, temperatures=by_response.repeat_interleave(forward.lengths))


@dataclass(frozen=True)
class DistinctImages:
    """The distinct images of a batch: `pixel_values`, `image_grid_thw` and `image_index` of its `ForwardBatch`."""

    pixel_values: Tensor | None
    grid_thw: Tensor | None
    index: tuple[int, ...]


def forward_batch(
    rows: Sequence[tuple[ProcessedPrompt, ResponseIds]], positions_of: PositionsOf, pad_id: int
) -> ForwardBatch:
    """The rows as one padded batch. positions_of: called once for each distinct prompt.

    Response token j has position (largest prompt position + 1 + j) on all axes.
    """
    prompts = {id(prompt): prompt for prompt, _ in rows}
    positions = {key: positions_of(prompt) for key, prompt in prompts.items()}
    longest = max(len(prompt.input_ids) + len(response) for prompt, response in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    axes = len(next(iter(positions.values())))
    position_ids = torch.zeros((axes, len(rows), longest), dtype=torch.long)
    for i, (prompt, response) in enumerate(rows):
        start, end = len(prompt.input_ids), len(prompt.input_ids) + len(response)
        input_ids[i, :start] = prompt.input_ids
        input_ids[i, start:end] = torch.tensor(response, dtype=torch.long)
        position_ids[:, i, :start] = positions[id(prompt)]
        position_ids[:, i, start:end] = positions[id(prompt)].max() + 1 + torch.arange(len(response))
    lengths = torch.tensor([len(response) for _, response in rows])
    token_rows = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    prompt_ends = torch.tensor([len(prompt.input_ids) - 1 for prompt, _ in rows])
    first_token = lengths.cumsum(0) - lengths
    token_columns = torch.arange(len(token_rows)) - first_token[token_rows] + prompt_ends[token_rows]
    images = distinct_images([prompt for prompt, _ in rows])
    return ForwardBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        pixel_values=images.pixel_values,
        image_grid_thw=images.grid_thw,
        image_index=images.index,
        targets=torch.tensor([token for _, response in rows for token in response], dtype=torch.long),
        token_rows=token_rows,
        token_columns=token_columns,
        lengths=lengths,
        layout=None,
    )


def distinct_images(prompts: Sequence[ProcessedPrompt]) -> DistinctImages:
    """Each image of the prompts once, in order of appearance."""
    images: dict[ImageRef, tuple[Tensor, tuple[int, int, int]]] = {}
    for prompt in prompts:
        for key, pixels, grid in zip(prompt.image_keys, prompt.pixel_values, prompt.image_grid_thw, strict=True):
            images.setdefault(key, (pixels, grid))
    place = {key: i for i, key in enumerate(images)}
    return DistinctImages(
        pixel_values=torch.cat([pixels for pixels, _ in images.values()]) if images else None,
        grid_thw=torch.tensor([grid for _, grid in images.values()]) if images else None,
        index=tuple(place[key] for prompt in prompts for key in prompt.image_keys),
    )
