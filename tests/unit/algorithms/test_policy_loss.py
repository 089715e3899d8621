"""Losses against hand-computed numbers and a slow NumPy reference; masks, off-policy tokens and metrics."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.policy_loss import PolicyLossSettings, policy_loss
from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError
from tests.examples import examples

CLIP = PolicyLossSettings("clip", 0.2, 0.28, None)


def one_token(ratio, advantage, chosen, off_policy=None, unbounded=None):
    """Loss and its gradient with respect to the token's log-prob, which is 0 (so that the ratio's too is the ratio)."""
    logprobs = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-math.log(ratio)], dtype=torch.float64)
    layout = TokenLayout.packed(torch.tensor([1]))
    loss = policy_loss(logprobs, old, torch.tensor([advantage]), layout, chosen, off_policy, unbounded)
    loss.token_losses.sum().backward()
    return loss, loss.token_losses.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "value", "gradient", "clipped", "dual_clipped"),
    [
        (1.0, 2.0, None, -2.0, -2.0, 0, 0),
        (1.1, 1.0, None, -1.1, -1.1, 0, 0),
        (1.5, 1.0, None, -1.28, 0.0, 1, 0),
        (0.5, 1.0, None, -0.5, -0.5, 0, 0),
        (1.5, -1.0, None, 1.5, 1.5, 0, 0),
        (0.5, -1.0, None, 0.8, 0.0, 1, 0),
        (12.0, -1.0, None, 12.0, 12.0, 0, 0),
        (12.0, -1.0, 10.0, 10.0, 0.0, 0, 1),
        (12.0, 1.0, 10.0, -1.28, 0.0, 1, 0),
        (9.0, -1.0, 10.0, 9.0, 9.0, 0, 0),
        (1.5, 0.0, 10.0, 0.0, 0.0, 0, 0),
    ],
)
def test_clip_by_hand(ratio, advantage, dual_clip, value, gradient, clipped, dual_clipped):
    loss, actual, slope = one_token(ratio, advantage, replace(CLIP, dual_clip=dual_clip))
    assert (actual, slope) == pytest.approx((value, gradient))
    assert (int(loss.num_clipped), int(loss.num_dual_clipped)) == (clipped, dual_clipped)
    assert loss.kl_sum.item() == pytest.approx(-math.log(ratio))


def test_cispo_by_hand():
    # The weight is bounded, the token keeps its gradient: -A b(w) per unit of log-prob.
    loss, _, slope = one_token(1.5, 2.0, PolicyLossSettings("cispo", 0.2, 0.28, None))
    assert slope == pytest.approx(-2.56)
    assert int(loss.num_clipped) == 1


def test_gspo_by_hand():
    # Log-ratios 0.3 and 0.1: the sequence's ratio is exp(0.2) = 1.2214 at both tokens, under the bound of 1.28.
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.3, -2.1], dtype=torch.float64)
    layout = TokenLayout.packed(torch.tensor([2]))
    chosen = PolicyLossSettings("gspo", 0.2, 0.28, None)
    loss = policy_loss(logprobs, old, torch.ones(2), layout, chosen)
    loss.token_losses.sum().backward()
    assert loss.token_losses.tolist() == pytest.approx([-math.exp(0.2)] * 2)
    assert logprobs.grad.tolist() == pytest.approx([-math.exp(0.2)] * 2)
    tight = policy_loss(logprobs, old, torch.ones(2), layout, replace(chosen, clip_high=0.2))
    assert tight.token_losses.tolist() == pytest.approx([-1.2] * 2)
    assert int(tight.num_clipped) == 2


def numpy_clip(logprobs, old, advantage, chosen):
    """Loss, gradient and whether the bound decided, of one token."""
    ratio = np.exp(logprobs - old)
    bounded = min(max(ratio, 1 - chosen.clip_low), 1 + chosen.clip_high)
    loss, gradient, clipped = -advantage * ratio, -advantage * ratio, False
    if -advantage * bounded > loss:
        loss, gradient, clipped = -advantage * bounded, 0.0, True
    if chosen.dual_clip is not None and advantage < 0 and loss > -advantage * chosen.dual_clip:
        loss, gradient = -advantage * chosen.dual_clip, 0.0
    return loss, gradient, clipped


@examples(60)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.builds(
        PolicyLossSettings,
        kind=st.just("clip"),
        clip_low=st.floats(0.05, 0.5),
        clip_high=st.floats(0.05, 0.5),
        dual_clip=st.none() | st.floats(1.5, 10),
    ),
)
def test_clip_agrees_with_a_loop_over_tokens(lengths, seed, chosen):
    random = np.random.default_rng(seed)
    size = sum(lengths)
    new, old = random.normal(-1, 0.7, size), random.normal(-1, 0.7, size)
    advantages = random.normal(0, 1, len(lengths))
    layout = TokenLayout.packed(torch.tensor(lengths))
    logprobs = torch.tensor(new, requires_grad=True)
    loss = policy_loss(logprobs, torch.tensor(old), layout.spread(torch.tensor(advantages)), layout, chosen)
    loss.token_losses.sum().backward()
    per_token = np.repeat(advantages, lengths)
    expected = [numpy_clip(*token, chosen) for token in zip(new, old, per_token, strict=True)]
    assert loss.token_losses.tolist() == pytest.approx([row[0] for row in expected])
    assert logprobs.grad.tolist() == pytest.approx([row[1] for row in expected])
    assert int(loss.num_clipped) == sum(row[2] for row in expected)
    assert loss.kl_sum.item() == pytest.approx(float((old - new).sum()))


@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_padding_may_hold_anything(kind):
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    new, old = (-torch.rand(2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = torch.tensor([[1.0], [-2.0]], dtype=torch.float64).expand(2, 3)
    chosen = PolicyLossSettings(kind, 0.1, 0.1, 3.0 if kind == "clip" else None)

    def run(filling):
        logprobs = torch.where(mask, new, filling).requires_grad_()
        filled = torch.where(mask, advantages, filling)
        loss = policy_loss(logprobs, torch.where(mask, old, -filling), filled, TokenLayout.padded(mask), chosen)
        loss.token_losses.sum().backward()
        return loss, logprobs.grad

    (clean, clean_gradient), (dirty, dirty_gradient) = run(0.0), run(float("nan"))
    assert torch.equal(clean.token_losses, dirty.token_losses)
    assert torch.equal(clean_gradient, dirty_gradient)
    assert not dirty_gradient[~mask].any()
    assert not dirty.token_losses[~mask].any()
    assert (clean.num_tokens, clean.num_clipped, clean.kl_sum) == (dirty.num_tokens, dirty.num_clipped, dirty.kl_sum)
    assert int(dirty.num_tokens) == 4


@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_off_policy_tokens_are_unbounded_and_not_counted(kind):
    off = torch.tensor([True])
    loss, _, slope = one_token(3.0, 1.0, PolicyLossSettings(kind, 0.2, 0.2, None), off)
    assert slope == pytest.approx(-3.0)
    assert [int(loss.num_tokens), int(loss.num_clipped), float(loss.kl_sum)] == [0, 0, 0.0]
    on, *_ = one_token(3.0, 1.0, PolicyLossSettings(kind, 0.2, 0.2, None), ~off)
    assert [int(on.num_tokens), int(on.num_clipped)] == [1, 1]


def test_off_policy_tokens_are_not_dual_clipped():
    loss, value, _ = one_token(12.0, -1.0, replace(CLIP, dual_clip=3.0), torch.tensor([True]))
    assert value == pytest.approx(12.0)
    assert int(loss.num_dual_clipped) == 0


@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_bounded_off_policy_tokens_have_the_loss_of_others_and_are_not_counted(kind):
    """Ratio 3 with A = 1 and ratio 0.5 with A = -1, bounds 0.2; for clip also ratio 12 with A = -1 and dual_clip 3."""
    off, none = torch.tensor([True]), torch.tensor([False])
    for ratio, advantage in [(3.0, 1.0), (0.5, -1.0), *([(12.0, -1.0)] if kind == "clip" else [])]:
        chosen = PolicyLossSettings(kind, 0.2, 0.2, 3.0 if kind == "clip" else None)
        plain, value, slope = one_token(ratio, advantage, chosen)
        bounded, *same = one_token(ratio, advantage, chosen, off, none)
        assert same == [value, slope]
        assert (int(plain.num_tokens), int(bounded.num_tokens), float(bounded.kl_sum)) == (1, 0, 0.0)
        assert (int(bounded.num_clipped), int(bounded.num_dual_clipped)) == (0, 0)
        assert [value, slope] != list(one_token(ratio, advantage, chosen, off, off)[1:])


@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_first_update_has_ratio_one_and_the_policy_gradient(kind):
    logprobs = torch.tensor([-1.0, -0.5, -2.0], requires_grad=True)
    layout = TokenLayout.packed(torch.tensor([2, 1]))
    advantages = layout.spread(torch.tensor([2.0, -1.0], dtype=torch.float64))
    loss = policy_loss(logprobs, logprobs, advantages, layout, PolicyLossSettings(kind, 0.2, 0.2, None))
    loss.token_losses.sum().backward()
    assert loss.token_losses.dtype == torch.float32
    assert logprobs.grad.tolist() == [-2.0, -2.0, 1.0]
    assert [int(loss.num_clipped), float(loss.kl_sum)] == [0, 0.0]


def test_a_broken_ratio_stays_finite_in_float32():
    logprobs = torch.tensor([0.0], requires_grad=True)
    layout = TokenLayout.packed(torch.tensor([1]))
    loss = policy_loss(logprobs, torch.tensor([-500.0]), torch.tensor([-1.0]), layout, CLIP)
    loss.token_losses.sum().backward()
    assert torch.isfinite(loss.token_losses).all()
    assert torch.isfinite(logprobs.grad).all()


def test_an_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.loss"):
        PolicyLossSettings("ppo", 0.2, 0.2, None)
