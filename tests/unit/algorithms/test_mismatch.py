"""The engine's log-probs against the trainer's: KL and importance weights, truncated and masked."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.mismatch import ImportanceSettings, engine_kl, importance_weights
from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError
from tests.examples import examples


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
@examples(20)
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


def truncated(cap, level="token"):
    return ImportanceSettings(level, "truncate", cap, 0.0)


def scalars(found):
    return [float(x) for x in (found.sum, found.num_kept, found.num_capped, found.num_masked)]


def test_weights_and_the_capped_by_hand():
    layout = TokenLayout.packed(torch.tensor([4]))
    old, rollout = torch.tensor([-1.0, -1.0, -1.0, -90.0]), torch.tensor([-1.0, -2.0, -0.5, -0.1])
    found = importance_weights(old, rollout, layout, truncated(1.0))
    assert found.weights.tolist() == pytest.approx([1.0, 1.0, math.exp(-0.5), 0.0])
    assert int(found.num_capped) == 1  # equal log-probs are not above the cap
    assert int(importance_weights(old, rollout, layout, truncated(0.5)).num_capped) == 3
    assert int(importance_weights(old, rollout, layout, truncated(3.0)).num_capped) == 0
    nobody = TokenLayout(torch.zeros(4, dtype=torch.bool), layout.sequence_index, 1)
    assert int(importance_weights(old, rollout, nobody, truncated(0.5)).num_capped) == 0
    overflowing = importance_weights(old + 900, rollout, layout, truncated(2.0))
    assert overflowing.weights.tolist() == [2.0] * 4


# Three responses of 2, 1 and 2 tokens; the last token is not counted. d = ln 2, ln 2 | -ln 4 | 0, (ln 64).
LAYOUT = TokenLayout(torch.tensor([True, True, True, True, False]), torch.tensor([0, 0, 1, 2, 2]), 3)
ROLLOUT = torch.tensor([-3.0, -2.0, -1.0, -5.0, math.nan])
OLD = ROLLOUT + torch.tensor([2.0, 2.0, 0.25, 1.0, 64.0]).log()
WEIGHTS = {
    "token": [2.0, 2.0, 0.25, 1.0, 0.0],
    "sequence": [4.0, 4.0, 0.25, 1.0, 0.0],
    "sequence_mean": [2.0, 2.0, 0.25, 1.0, 0.0],
}


@pytest.mark.parametrize("level", WEIGHTS)
def test_the_three_levels_by_hand(level):
    found = importance_weights(OLD, ROLLOUT, LAYOUT, truncated(100.0, level))
    assert found.weights.tolist() == pytest.approx(WEIGHTS[level])
    of_units = {"token": (5.25, 4), "sequence": (5.25, 3), "sequence_mean": (3.25, 3)}[level]  # tokens, or responses
    assert scalars(found) == pytest.approx([*of_units, 0, 0])
    assert not found.masked.any()
    lower = importance_weights(OLD, ROLLOUT, LAYOUT, truncated(1.5, level))
    assert lower.weights.tolist() == pytest.approx([min(w, 1.5) for w in WEIGHTS[level]])
    assert scalars(lower) == pytest.approx([*{"token": (4.25, 4, 2)}.get(level, (2.75, 3, 1)), 0])


@pytest.mark.parametrize(
    ("level", "cap", "floor", "kept", "sums"),
    [
        ("token", 1.5, 0.0, [0, 0, 0.25, 1.0, 0], (1.25, 2, 0, 2)),
        ("token", 2.5, 0.5, [2.0, 2.0, 0, 1.0, 0], (5.0, 3, 0, 1)),
        ("sequence", 3.0, 0.5, [0, 0, 0, 1.0, 0], (1.0, 1, 0, 2)),
        ("sequence", 5.0, 0.5, [4.0, 4.0, 0, 1.0, 0], (5.0, 2, 0, 1)),
        ("sequence_mean", 3.0, 0.5, [2.0, 2.0, 0, 1.0, 0], (3.0, 2, 0, 1)),
        ("sequence_mean", 1.5, 0.0, [0, 0, 0.25, 1.0, 0], (1.25, 2, 0, 1)),
        ("sequence_mean", 1.0, 1.0, [0, 0, 0, 1.0, 0], (1.0, 1, 0, 2)),  # a weight at a bound is kept
    ],
)
def test_masks_by_hand(level, cap, floor, kept, sums):
    found = importance_weights(OLD, ROLLOUT, LAYOUT, ImportanceSettings(level, "mask", cap, floor))
    assert found.weights.tolist() == pytest.approx(kept)
    assert found.masked.tolist() == [w == 0 and counted for w, counted in zip(kept, LAYOUT.mask.tolist(), strict=True)]
    assert scalars(found) == pytest.approx(sums)


@pytest.mark.parametrize("level", WEIGHTS)
def test_extremes(level):
    """A weight beyond float32 is cut or masked, not infinite; NaN is neither, so that the loss shows it."""
    layout, rollout = TokenLayout.packed(torch.tensor([1, 1, 1])), torch.zeros(3)
    old = torch.tensor([900.0, -900.0, math.nan])
    weights = importance_weights(old, rollout, layout, truncated(2.0, level)).weights.tolist()
    assert weights[:2] == [2.0, 0.0]
    assert math.isnan(weights[2])
    found = importance_weights(old, rollout, layout, ImportanceSettings(level, "mask", 2.0, 0.5))
    assert found.weights.tolist()[:2] == [0.0, 0.0]
    assert math.isnan(found.weights.tolist()[2])
    assert found.masked.tolist() == [True, True, False]


def test_a_long_response_sums_in_float64():
    """4,000 tokens that differ by 1e-4 each, at -30 nats: in float32 the sum would drift."""
    old = torch.full((4000,), -30.0)
    rollout = old - 1e-4
    exact = math.exp(float((old.double() - rollout.double()).sum()))
    layout = TokenLayout.packed(torch.tensor([4000]))
    found = importance_weights(old, rollout, layout, truncated(10.0, "sequence"))
    assert float(found.sum) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("wrong", [{"level": "geometric"}, {"mode": "reject"}])
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(ConfigError, match=rf"algorithm\.importance_{next(iter(wrong))}: unknown"):
        ImportanceSettings(**{"level": "token", "mode": "mask", "cap": 2.0, "floor": 0.0} | wrong)
