"""Attention over packs: each prompt once, then its responses. A response attends to its prompt and to itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, chain, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

SHARED_PREFIX = "mars_shared_prefix"
_VARLEN_DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class PaddedResponses:
    """n responses of one group, padded to R tokens.

    tokens: int64 [n * R], indices into the group's response tokens; padding repeats a response's first token.
    """

    count: int
    tokens: Tensor
    prompt_tokens: int

    @cached_property
    def mask(self) -> Tensor:
        """Bool [R, P + R], the tokens that a token attends to: the whole prompt, earlier response tokens and itself."""
        longest = len(self.tokens) // self.count
        mask = torch.ones(longest, self.prompt_tokens + longest, dtype=torch.bool, device=self.tokens.device)
        return mask.tril(self.prompt_tokens)


@dataclass(frozen=True)
class PrefixGroup:
    """A prompt of P tokens and its responses, which have S tokens in all.

    padded: the responses in batches of similar length. kept: int64 [S], the position of each response token
    in the concatenation of these batches.
    """

    prompt_tokens: int
    response_tokens: tuple[int, ...]
    padded: tuple[PaddedResponses, ...]
    kept: Tensor


@dataclass(frozen=True)
class SharedPrefixLayout:
    """Which tokens attend to which in a pack of N tokens: prompt, its responses, next prompt, its responses, and so on.

    The layout is not stored in the model: gradient checkpointing repeats forwards in backward, and by then the model
    might have the layout of another pack.
    query_ends, key_ends: int32 [S + 1] for S segments (prompts, and responses that are not empty): 0, then the running
        totals of the numbers of queries (keys) of the segments.
    """

    groups: tuple[PrefixGroup, ...]
    query_ends: Tensor
    key_ends: Tensor

    @staticmethod
    def of(groups: Sequence[tuple[int, Sequence[int]]]) -> SharedPrefixLayout:
        """groups: (tokens of the prompt, tokens of each of its responses), in the pack's order.

        Example: [(3, [2, 1]), (4, [])] is a pack of 10 tokens; token 5 (second response) attends to 0, 1, 2 and 5.
        """
        made = tuple(_group(prompt, tuple(responses)) for prompt, responses in groups)
        queries, keys = zip(*_segments(made), strict=True)
        ends = (torch.tensor([0, *accumulate(sizes)], dtype=torch.int32) for sizes in (queries, keys))
        return SharedPrefixLayout(made, *ends)

    def to(self, device: torch.device) -> SharedPrefixLayout:
        groups = (
            PrefixGroup(
                group.prompt_tokens,
                group.response_tokens,
                tuple(PaddedResponses(p.count, p.tokens.to(device), p.prompt_tokens) for p in group.padded),
                group.kept.to(device),
            )
            for group in self.groups
        )
        return SharedPrefixLayout(tuple(groups), self.query_ends.to(device), self.key_ends.to(device))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """For each group, its number of prompt tokens, then its number of response tokens, in one flat tuple."""
        return tuple(size for group in self.groups for size in (group.prompt_tokens, sum(group.response_tokens)))

    @cached_property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """Numbers of (queries, keys) of each segment: (P, P) for a prompt, (R, P + R) for a response.

        The last query of a segment attends to all its keys, the query before it to all but the last key, and so on.
        """
        return _segments(self.groups)


def register() -> str:
    """Register the attention with transformers, for the language model. Returns its name.

    No mask function is registered with it, so transformers builds no mask.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
    return SHARED_PREFIX


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    shared_prefix: SharedPrefixLayout,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, H, N, D], key and value [1, Hk, N, D], H a multiple of Hk -> [1, N, H, D]. Gives None for the weights.

    Raises NotImplementedError for a mask, dropout or a sliding window, which a pack cannot have.
    """
    if attention_mask is not None or dropout or sliding_window:
        raise NotImplementedError("shared-prefix packing supports no mask, no attention dropout and no sliding window")
    # In mixed precision the rotary embedding leaves queries and keys in float32; values have the model's type.
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    if takes_varlen(query):
        return attend_segments(query, key, value, shared_prefix, scaling, grouped_varlen()).unsqueeze(0), None
    return attend_padded(query, key, value, shared_prefix, scaling).unsqueeze(0), None


def takes_varlen(query: Tensor) -> bool:
    """Whether `torch.nn.attention.varlen` has a kernel for the query: on a GPU, in 16 bits."""
    return query.is_cuda and query.dtype in _VARLEN_DTYPES


def grouped_varlen() -> Callable[..., Tensor]:
    """torch's `varlen_attn`, for as many key heads as query heads, or fewer.

    torch 2.11 accepts fewer key heads than query heads without an argument. Later versions need `enable_gqa`, which
    2.11 does not have.
    """
    from torch.nn.attention.varlen import varlen_attn

    return partial(varlen_attn, enable_gqa=True) if torch.__version__ >= (2, 12) else varlen_attn


def attend_padded(query: Tensor, key: Tensor, value: Tensor, layout: SharedPrefixLayout, scale: float) -> Tensor:
    """query [N, H, D], key and value [N, Hk, D] -> [N, H, D], on any device and in any dtype."""
    outputs = []
    # One split instead of many slices, because its backward is a single concatenation.
    parts = zip(*(x.split(layout.sizes) for x in (query, key, value)), strict=True)
    for group, prompt, responses in zip(layout.groups, parts, parts, strict=False):
        prompt_query, *prefix = (x.unsqueeze(0) for x in prompt)
        outputs.append(_attend(prompt_query, *prefix, scale=scale, is_causal=True))
        padded = [_attend_responses(batch, prefix, responses, scale) for batch in group.padded]
        if padded:
            outputs.append(torch.cat(padded).index_select(0, group.kept))
    return torch.cat(outputs)


def attend_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedPrefixLayout,
    scale: float,
    varlen: Callable[..., Tensor],
) -> Tensor:
    """`attend_padded` as one call of variable-length attention, without padding.

    varlen: `grouped_varlen()`. If a segment has more keys than queries, its causal mask must be aligned at the end
    (bottom right), as in FlashAttention from version 2.1 on.
    """
    queries, keys = zip(*layout.segments, strict=True)
    return varlen(
        query,
        _keys_by_segment(key, layout),
        _keys_by_segment(value, layout),
        # Tensors of the layout, because tensors made here would be copied from the CPU in every layer.
        layout.query_ends,
        layout.key_ends,
        max(queries),
        max(keys),
        scale=scale,
        window_size=(-1, 0),
    )


def _keys_by_segment(keys: Tensor, layout: SharedPrefixLayout) -> Tensor:
    """[N, Hk, D] -> the keys of each segment: the prompt's, then for each response the prompt's and its own.

    The prompt is copied by `expand`, not by indexing, so that its gradient is one sum, in float32, in a fixed order.
    """
    parts = iter(keys.split(layout.sizes))
    rows: list[Tensor] = []
    for group, prompt, responses in zip(layout.groups, parts, parts, strict=False):
        lengths = [r for r in group.response_tokens if r]
        first, *copies = prompt.expand(1 + len(lengths), *prompt.shape).unbind()
        rows += [first, *chain.from_iterable(zip(copies, responses.split(lengths) if lengths else (), strict=True))]
    return torch.cat(rows)


def _attend_responses(
    batch: PaddedResponses, prefix: list[Tensor], responses: tuple[Tensor, ...], scale: float
) -> Tensor:
    """n responses, padded to R tokens, each attend to the prompt and to themselves. Returns [n * R, H, D].

    prefix: the prompt's keys and values, [1, P, Hk, D] each. responses: query, key and value of all S response tokens.
    """
    query, *own = (x.index_select(0, batch.tokens).unflatten(0, (batch.count, -1)) for x in responses)
    key, value = (torch.cat([p.expand(batch.count, -1, -1, -1), o], dim=1) for p, o in zip(prefix, own, strict=True))
    return _attend(query, key, value, scale=scale, attn_mask=batch.mask)


def _attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """[B, queries, H, D] and [B, keys, Hk, D] -> [B * queries, H, D]."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    if grouped and query.is_cuda:
        # The CUDA kernels that take a mask do not take grouped heads.
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        grouped = False
    attended = scaled_dot_product_attention(query, key, value, enable_gqa=grouped, **options)
    return attended.transpose(1, 2).flatten(0, 1)


def _segments(groups: Sequence[PrefixGroup]) -> tuple[tuple[int, int], ...]:
    return tuple(
        (tokens, before + tokens)
        for group in groups
        for before, tokens in ((0, group.prompt_tokens), *((group.prompt_tokens, r) for r in group.response_tokens))
        if tokens
    )


def _group(prompt_tokens: int, response_tokens: tuple[int, ...]) -> PrefixGroup:
    """Batches responses whose lengths have equally many binary digits, so that less than half of a batch is padding."""
    starts = [0, *accumulate(response_tokens)]
    kept = torch.empty(starts[-1], dtype=torch.long)
    padded, first_row = [], 0
    by_length = sorted((length.bit_length(), k) for k, length in enumerate(response_tokens) if length)
    for _, members in groupby(by_length, key=lambda item: item[0]):
        responses = [k for _, k in members]
        longest = max(response_tokens[k] for k in responses)
        tokens = torch.tensor([starts[k] for k in responses]).repeat_interleave(longest)
        for row, k in enumerate(responses):
            own, places = slice(starts[k], starts[k + 1]), torch.arange(response_tokens[k])
            tokens[row * longest + places] += places
            kept[own] = first_row + row * longest + places
        padded.append(PaddedResponses(len(responses), tokens, prompt_tokens))
        first_row += len(tokens)
    return PrefixGroup(prompt_tokens, response_tokens, tuple(padded), kept)
