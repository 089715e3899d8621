"""The engine's log-probs against the trainer's: KL and the share of capped importance weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mars.algorithms.mismatch import engine_kl, importance_weights, num_capped
from mars.algorithms.token_layout import TokenLayout


def test_kl_by_hand():
    layout = TokenLayout.padded(torch.tensor([[1, 1, 0]]))
    old, rollout = torch.tensor([[-1.0, -2.0, math.nan]]), torch.tensor([[-1.5, -2.0, 3.0]])
    assert float(engine_kl(old, rollout, layout)) == pytest.approx(math.exp(0.5) - 1.5)
    swapped = engine_kl(rollout, old, TokenLayout.padded(torch.tensor([[1, 1, 0]])))
    assert float(swapped) == pytest.approx(math.exp(-0.5) - 0.5)  # it has a direction


def test_rounding_of_float32_is_no_kl():
    old = torch.full((1000,), -1.0) - torch.linspace(0, 1, 1000)
    near = old + 1e-6 * torch.sin(torch.arange(1000.0))
    kl = float(engine_kl(old, near, TokenLayout.packed(torch.tensor([1000])))) / 1000
    assert 0 <= kl < 2e-12


@given(st.integers(0, 10_000), st.floats(0.05, 0.5))
@settings(max_examples=20, deadline=None)
def test_the_mean_over_samples_is_the_kl(seed, scale):
    """200,000 draws from the engine's distribution over 6 tokens, in float32."""
    generator = torch.Generator().manual_seed(seed)
    engine_logits = torch.randn(6, generator=generator)
    engine = engine_logits.log_softmax(0)
    trainer = (engine_logits + scale * torch.randn(6, generator=generator)).log_softmax(0)
    drawn = torch.multinomial(engine.exp(), 200_000, replacement=True, generator=generator)
    mean = float(engine_kl(trainer[drawn], engine[drawn], TokenLayout.packed(torch.tensor([200_000])))) / 200_000
    exact = float((engine.exp() * (engine - trainer)).sum())
    assert mean == pytest.approx(exact, rel=0.1, abs=1e-4)


def test_a_nucleus_alone():
    """The engine draws from the first two of three tokens, mass 0.8, and reports their share of it."""
    full = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = torch.tensor([0] * 5 + [1] * 3)
    rollout = full[drawn] - math.log(0.8)
    kl = float(engine_kl(full[drawn], rollout, TokenLayout.packed(torch.tensor([8])))) / 8
    assert kl == pytest.approx(-math.log(0.8) - 0.2)


def test_weights_and_the_capped_by_hand():
    layout = TokenLayout.packed(torch.tensor([4]))
    old, rollout = torch.tensor([-1.0, -1.0, -1.0, -90.0]), torch.tensor([-1.0, -2.0, -0.5, -0.1])
    weights = importance_weights(old, rollout, layout, 1.0)
    assert weights.tolist() == pytest.approx([1.0, 1.0, math.exp(-0.5), 0.0])
    assert int(num_capped(old, rollout, layout, 1.0)) == 1  # equal log-probs are not above the cap
    assert int(num_capped(old, rollout, layout, 0.5)) == 3
    assert int(num_capped(old, rollout, layout, 3.0)) == 0
    nobody = TokenLayout(torch.zeros(4, dtype=torch.bool), layout.sequence_index, 1)
    assert int(num_capped(old, rollout, nobody, 0.5)) == 0
    overflowing = importance_weights(old + 900, rollout, layout, 2.0)
    assert overflowing.tolist() == [2.0] * 4
