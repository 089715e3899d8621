import math

import pytest
import torch

from mars.algorithms.kl import kl_estimate
from mars.algorithms.penalties import overlong_penalty
from mars.errors import ConfigError


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


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([0, 79, 80, 81, 90, 100, 110])
    penalty = overlong_penalty(lengths, 100, 20, 1.0).tolist()
    assert penalty == pytest.approx([0, 0, 0, -0.05, -0.5, -1.0, -1.5])
    assert overlong_penalty(lengths, 100, 20, 0.5).tolist() == pytest.approx([x / 2 for x in penalty])


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_a_buffer_that_cannot_be_is_refused(buffer):
    with pytest.raises(ConfigError, match="overlong_buffer_tokens"):
        overlong_penalty(torch.tensor([5]), 100, buffer, 1.0)
