import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.kl import capped_k3, kl_estimate
from mars.algorithms.penalties import OverlongPenalty, overlong_penalty, with_kl_penalty, with_overlong_penalty
from mars.errors import ConfigError, NumericalError
from tests.builders import make_rollouts


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        ("k1", 1.0, 1.0),
        ("abs", 1.0, 1.0),
        ("k2", 0.5, 1.0),
        ("k3", math.exp(-1), 1 - math.exp(-1)),
    ],
)
def test_kl_by_hand(estimator, value, gradient):
    logprobs = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    kl = kl_estimate(logprobs, torch.tensor([-2.0], dtype=torch.float64), estimator)
    kl.sum().backward()
    assert (kl.item(), logprobs.grad.item()) == pytest.approx((value, gradient))


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    exact = (policy * (policy / reference).log()).sum().item()
    for estimator in ("k1", "k3"):
        estimate = kl_estimate(policy.log(), reference.log(), estimator)
        assert (policy * estimate).sum().item() == pytest.approx(exact)
    assert (kl_estimate(policy.log(), reference.log(), "k3") >= 0).all()


def test_k3_keeps_its_digits_near_zero():
    kl = kl_estimate(torch.tensor([1e-3]), torch.tensor([0.0]), "k3")
    assert kl.item() == pytest.approx(5e-7, rel=1e-2)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.kl_estimator"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


def test_a_capped_k3_by_hand():
    """d = changed - logprobs: -1, 0, 2, 7 and -1e9. k3 = exp(d) - d - 1; the last two are cut at 10."""
    logprobs = torch.tensor([-1.0, -1.0, -3.0, -8.0, -1.0], dtype=torch.float64, requires_grad=True)
    changed = torch.tensor([-2.0, -1.0, -1.0, -1.0, -1e9], dtype=torch.float64)
    kl = capped_k3(logprobs, changed, 10.0)
    assert kl.tolist() == pytest.approx([math.exp(-1), 0, math.exp(2) - 3, 10, 10])
    kl.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([1 - math.exp(-1), 0, 1 - math.exp(2), 0, 0])
    assert capped_k3(torch.tensor([-1.0]), torch.tensor([-1e9]), 100.0).item() == pytest.approx(19)


@given(st.floats(-1e4, 0, width=32), st.floats(-1e4, 0, width=32), st.floats(0.1, 1e3))
def test_a_capped_k3_is_k3_where_nothing_is_cut_and_finite_elsewhere(one, other, cap):
    logprobs = torch.tensor([one], requires_grad=True)
    kl = capped_k3(logprobs, torch.tensor([other]), cap)
    kl.backward()
    assert 0 <= kl.item() <= cap * (1 + 1e-6)
    assert torch.isfinite(logprobs.grad).all()
    if abs(one - other) < 20:
        exact = kl_estimate(torch.tensor([one]), torch.tensor([other]), "k3").item()
        assert kl.item() == pytest.approx(min(exact, cap), rel=1e-5)


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([0, 79, 80, 81, 90, 100, 110])
    penalty = overlong_penalty(lengths, 100, 20, 1.0).tolist()
    assert penalty == pytest.approx([0, 0, 0, -0.05, -0.5, -1.0, -1.5])
    assert overlong_penalty(lengths, 100, 20, 0.5).tolist() == pytest.approx([x / 2 for x in penalty])


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_a_buffer_that_cannot_be_is_refused(buffer):
    with pytest.raises(ConfigError, match="overlong_buffer_tokens"):
        overlong_penalty(torch.tensor([5]), 100, buffer, 1.0)


def rewards_of(prompt):
    return [rollout.reward for group in (prompt.multi, *prompt.anchors) for rollout in group.rollouts]


def test_a_score_that_a_penalty_takes_beyond_the_bound_is_masked_with_a_reason():
    prompt = make_rollouts("a", [1.0, 1.0, None, 999_999.0], visible=[0.5, -999_999.5])
    (after,) = with_kl_penalty([prompt], [[2.0, 4e6, -10.0], [1e9, 1.0]], 0.5)
    assert [reward.failed for reward in rewards_of(after)] == [
        None,
        "score with kl_penalty is not in [-1e+06, 1e+06]; got -1999999.0",
        "raised",
        "score with kl_penalty is not in [-1e+06, 1e+06]; got 1000004.0",
        "score with kl_penalty is not in [-1e+06, 1e+06]; got -499999999.5",
        None,
    ]
    assert [reward.score for reward in rewards_of(after)] == [0.0, 0, 0, 0, 0, -1e6]
    assert rewards_of(after)[0].parts == {"kl_penalty": -1.0}


def test_the_length_penalty_is_bounded_too():
    """Rollout k has k + 1 tokens: of at most 4 with a buffer of 2, the second is free and the fourth pays all."""
    (after,) = with_overlong_penalty([make_rollouts("a", [1.0] * 4)], OverlongPenalty(4, 2, 1.5e6))
    assert [reward.failed is None for reward in rewards_of(after)] == [True, True, True, False]
    assert rewards_of(after)[2].score == pytest.approx(1 - 0.75e6)


def test_one_kl_that_is_no_number_masks_its_sample_and_all_of_them_end_the_run():
    prompt = make_rollouts("a", [1.0, 1.0], visible=[0.5])
    (after,) = with_kl_penalty([prompt], [[math.nan, 0.0], [math.inf]], 1.0)
    assert [reward.failed is None for reward in rewards_of(after)] == [False, True, False]
    with pytest.raises(NumericalError, match=r"^algorithm\.kl_coefficient: .* in all 3 responses"):
        with_kl_penalty([prompt], [[math.nan, math.inf], [math.nan]], 1.0)
    failed = make_rollouts("b", [None, None])
    assert with_kl_penalty([failed], [], 1.0) == [failed]
