"""The attention of packs against a dense mask written out token by token."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.prefix_attention import SharedPrefixLayout, attend_padded, attend_segments, grouped_varlen
from tests.examples import examples

described = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(0, 20), max_size=6)), min_size=1, max_size=4
)  # fmt: skip
heads = st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)])


def dense_mask(groups):
    """A token sees those of its own group that are not after it and are the prompt's or its own response's."""
    owner = [(g, part) for g, (prompt, responses) in enumerate(groups)
             for part, length in enumerate([prompt, *responses]) for _ in range(length)]  # fmt: skip
    return torch.tensor([
        [j <= i and one[0] == other[0] and other[1] in (0, one[1]) for j, other in enumerate(owner)]
        for i, one in enumerate(owner)
    ])  # fmt: skip


def dense(query, key, value, mask, scale):
    """[N, H, D] in float64, head by head."""
    columns = []
    for head in range(query.shape[1]):
        own = head * key.shape[1] // query.shape[1]
        scores = (query[:, head] @ key[:, own].T * scale).masked_fill(~mask, -torch.inf)
        columns.append(scores.softmax(-1) @ value[:, own])
    return torch.stack(columns, dim=1)


def slow_varlen(query, key, value, ends_q, ends_k, max_q, max_k, *, scale, window_size, align="end"):
    """What varlen_attn does, segment by segment, causal at the end of the keys."""
    assert window_size == (-1, 0)
    assert ends_q.dtype == ends_k.dtype == torch.int32
    lengths, outputs = [], []
    for i in range(len(ends_q) - 1):
        q, k, v = query[ends_q[i] : ends_q[i + 1]], key[ends_k[i] : ends_k[i + 1]], value[ends_k[i] : ends_k[i + 1]]
        lengths.append((len(q), len(k)))
        offset = len(k) - len(q) if align == "end" else 0
        mask = torch.ones(len(q), len(k), dtype=torch.bool).tril(offset)
        outputs.append(dense(q, k, v, mask, scale))
    assert (max(q for q, _ in lengths), max(k for _, k in lengths)) == (max_q, max_k)
    assert (int(ends_q[-1]), int(ends_k[-1])) == (len(query), len(key))
    return torch.cat(outputs)


def tensors(groups, num_heads, num_key_heads, seed=0):
    noise = torch.Generator().manual_seed(seed)
    tokens = sum(prompt + sum(responses) for prompt, responses in groups)
    return [
        torch.randn(tokens, n, 8, generator=noise, dtype=torch.float64).mul_(2).requires_grad_()
        for n in (num_heads, num_key_heads, num_key_heads)
    ]


def value_and_gradients(attend, inputs):
    out = attend(*inputs)
    weights = torch.linspace(0, 40, out.numel(), dtype=out.dtype).cos().view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


@given(described, heads)
@examples(60)
def test_any_layout_is_its_dense_mask(groups, heads):
    layout, inputs, mask = SharedPrefixLayout.of(groups), tensors(groups, *heads), dense_mask(groups)
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, mask, 0.4), inputs)
    for attend in (
        lambda q, k, v: attend_padded(q, k, v, layout, 0.4),
        lambda q, k, v: attend_segments(q, k, v, layout, 0.4, slow_varlen),
    ):
        for mine, right in zip(value_and_gradients(attend, inputs), wanted, strict=True):
            torch.testing.assert_close(mine, right, atol=1e-12, rtol=1e-10)


def test_a_mask_aligned_at_the_start_is_wrong():
    """What the first GPU test must tell apart."""
    groups = [(9, [4, 6]), (3, [5])]
    layout, (query, key, value), mask = SharedPrefixLayout.of(groups), tensors(groups, 4, 2), dense_mask(groups)

    def at_start(*args, **options):
        return slow_varlen(*args, **options, align="start")

    wrong = attend_segments(query, key, value, layout, 0.4, at_start)
    assert (wrong - dense(query, key, value, mask, 0.4)).abs().max() > 1e-2


def test_a_small_layout_by_hand():
    layout = SharedPrefixLayout.of([(3, [2, 1]), (4, [])])
    assert layout.sizes == (3, 3, 4, 0)
    assert layout.segments == ((3, 3), (2, 5), (1, 4), (4, 4))
    first, second = layout.groups[0].padded  # by the lengths' number of binary digits: 1, then 2
    assert (first.count, first.tokens.tolist(), first.mask.tolist()) == (1, [2], [[True] * 4])
    assert (second.count, second.tokens.tolist()) == (1, [0, 1])
    assert second.mask.tolist() == [[True, True, True, True, False], [True] * 5]
    assert layout.groups[0].kept.tolist() == [1, 2, 0]
    assert layout.groups[1].padded == ()


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60))
@examples(60)
def test_less_than_half_of_the_responses_is_padding(lengths):
    (group,) = SharedPrefixLayout.of([(1, lengths)]).groups
    computed = sum(len(batch.tokens) for batch in group.padded)
    assert sum(lengths) <= computed < 2 * sum(lengths) + 1
    assert len(group.padded) <= 12


def test_variable_length_attention_makes_nothing_but_its_keys():
    """Ends come with the layout, to the device once; masks, R x (P + R) for each length, are not made."""
    layout, given = SharedPrefixLayout.of([(9, [4, 6]), (3, [0, 5]), (2, [])]), []

    def varlen(query, key, value, *rest, **options):
        given.extend(rest[:2])
        return slow_varlen(query, key, value, *rest, **options)

    attend_segments(*tensors([(9, [4, 6]), (3, [0, 5]), (2, [])], 4, 2), layout, 0.4, varlen)
    assert given[0] is layout.query_ends
    assert given[1] is layout.key_ends
    assert layout.query_ends.tolist() == [0, 9, 13, 19, 22, 27, 29]
    assert layout.key_ends.tolist() == [0, 9, 22, 37, 40, 48, 50]
    assert not any("mask" in vars(padded) for group in layout.groups for padded in group.padded)


def test_the_call_is_one_that_this_version_of_torch_knows():
    """Its arguments differ between versions; without a GPU only their names can be tried."""
    layout, bound = SharedPrefixLayout.of([(3, [2, 1])]), []

    def varlen(query, *rest, **options):
        bound.append(inspect.signature(grouped_varlen()).bind(query, *rest, **options).arguments)
        return query

    attend_segments(*tensors([(3, [2, 1])], 4, 2), layout, 0.4, varlen)
    assert (bound[0]["max_q"], bound[0]["max_k"], bound[0]["window_size"]) == (3, 5, (-1, 0))
    knows = "enable_gqa" in inspect.signature(torch.nn.attention.varlen.varlen_attn).parameters
    assert ("enable_gqa" in getattr(grouped_varlen(), "keywords", {})) == knows


def test_a_layout_cannot_be_changed():
    layout = SharedPrefixLayout.of([(3, [2])])
    with pytest.raises(AttributeError):
        layout.groups = ()
    with pytest.raises(AttributeError):
        layout.groups[0].prompt_tokens = 4
