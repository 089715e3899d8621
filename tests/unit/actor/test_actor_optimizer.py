from __future__ import annotations

import math

import pytest
import torch

from mars.actor.optimizer import Optimizer, rate_factor
from mars.config.actor_sections import OptimizerConfig


@pytest.mark.parametrize(
    ("warmup", "total", "factors"),
    [
        (0, None, [1, 1, 1, 1]),
        (3, None, [0.25, 0.5, 0.75, 1, 1, 1]),
        (3, 5, [0.25, 0.5, 0.75, 1, 0.5, 0, 0]),
        (0, 4, [1, 0.75, 0.5, 0.25, 0, 0]),
        (1, 5, [0.5, 1, 0.75, 0.5, 0.25, 0]),
        (9, 4, [0.1, 0.2, 0.3, 0.4, 0, 0]),
    ],
)
def test_rate_factors(warmup, total, factors):
    assert [rate_factor(step, warmup, total) for step in range(len(factors))] == pytest.approx(factors)


def settings(**changes):
    values = {"learning_rate": 0.1, "warmup_steps": 2, "weight_decay": 0.1, "betas": [0.8, 0.9],
              "max_grad_norm": 1.5}  # fmt: skip
    return OptimizerConfig(**values | changes)


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 2), (4,)]]


def named(tensors):
    return {f"p{i}": tensor for i, tensor in enumerate(tensors)}


def test_five_steps_written_out_in_float64():
    """AdamW (Loshchilov and Hutter 2019) of the gradient cut to the norm, at the rate of the warm-up."""
    mine = parameters()
    weights = [p.detach().double().clone() for p in mine]
    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    optimizer = Optimizer(named(mine), settings(), total_steps=None)
    for step in range(5):
        gradients = [torch.full_like(p, 0.1 * (step + 1)) * torch.sign(p.detach()) * 10**step for p in mine]
        for parameter, gradient in zip(mine, gradients, strict=True):
            parameter.grad = gradient.clone()
        result = optimizer.step()
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        rate = 0.1 * min((step + 1) / 3, 1)
        assert (result.grad_norm, result.learning_rate, result.applied) == (
            pytest.approx(norm), pytest.approx(rate), True,
        )  # fmt: skip
        for w, m, v, g in zip(weights, means, squares, gradients, strict=True):
            cut = g.double() * min(1.5 / (norm + 1e-6), 1)
            w -= rate * 0.1 * w
            m.mul_(0.8).add_(cut, alpha=0.2)
            v.mul_(0.9).add_(cut**2, alpha=0.1)
            w -= rate * (m / (1 - 0.8 ** (step + 1))) / ((v / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        for parameter, w in zip(mine, weights, strict=True):
            torch.testing.assert_close(parameter.detach().double(), w, atol=1e-5, rtol=1e-5)
    assert all(p.grad is None for p in mine)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_gradient_that_is_not_finite_changes_no_weight_moment_or_rate(bad):
    mine = parameters()
    optimizer = Optimizer(named(mine), settings(), total_steps=None)
    for p in mine:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.detach().clone() for p in mine]
    moments = [{k: v.clone() for k, v in s.items()} for s in optimizer._adamw.state.values()]
    for p in mine:
        p.grad = torch.ones_like(p)
    mine[1].grad[2] = bad
    result = optimizer.step()
    assert (result.applied, math.isfinite(result.grad_norm)) == (False, False)
    assert all(torch.equal(a, b) for a, b in zip(before, mine, strict=True))
    for old, new in zip(moments, optimizer._adamw.state.values(), strict=True):
        assert all(torch.equal(old[k], new[k]) for k in old)
    assert all(p.grad is None for p in mine)
    for p in mine:
        p.grad = torch.ones_like(p)
    assert optimizer.step().learning_rate == result.learning_rate == pytest.approx(0.1 * 2 / 3)


def test_skipping_drops_the_gradient_and_keeps_the_rate():
    mine = parameters()
    optimizer, before = Optimizer(named(mine), settings(), total_steps=None), [p.detach().clone() for p in mine]
    for p in mine:
        p.grad = torch.ones_like(p)
    result = optimizer.skip()
    assert (result.applied, result.learning_rate) == (False, pytest.approx(0.1 / 3))
    assert math.isnan(result.grad_norm)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, mine, strict=True))


def test_frozen_parameters_stay():
    mine = parameters()
    mine[0].requires_grad_(False)
    frozen = mine[0].clone()
    optimizer = Optimizer(named(mine), settings(), total_steps=None)
    mine[1].grad = torch.ones_like(mine[1])
    assert optimizer.step().grad_norm == pytest.approx(2.0)
    assert torch.equal(mine[0], frozen)


def test_a_loaded_state_goes_on_like_the_one_it_was_taken_from():
    """The second parameter has no gradient in the first step, so it has taken one step less."""
    mine = parameters()
    optimizer = Optimizer(named(mine), settings(), total_steps=None)
    mine[0].grad = torch.ones_like(mine[0])
    optimizer.step()
    for p in mine:
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    state = {name: value.clone() for name, value in optimizer.tensors().items()}
    assert state["steps"].tolist() == [2, 2, 1]
    other = [torch.torch.nn.Parameter(p.detach().clone()) for p in mine]
    loaded = Optimizer(named(other), settings(), total_steps=None)
    loaded.prepare_load(state["steps"])
    for name, value in loaded.tensors().items():
        value.copy_(state[name])
    for p in [*mine, *other]:
        p.grad = torch.full_like(p, -0.3)
    assert optimizer.step() == loaded.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def test_the_state_of_another_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="2 parameters, the checkpoint 3"):
        Optimizer(named(parameters()), settings(), total_steps=None).prepare_load(torch.tensor([0, 0, 0, 0]))


def test_gradients_are_scaled_before_they_are_clipped():
    parameters = {"a": torch.nn.Parameter(torch.tensor([1.0])), "b": torch.nn.Parameter(torch.tensor([1.0]))}
    made = Optimizer(parameters, settings(max_grad_norm=100.0), total_steps=None)
    parameters["a"].grad = torch.tensor([3.0])  # b has none, as a parameter that no forward uses
    made.scale(1.5)
    assert parameters["a"].grad.tolist() == [4.5]
    assert made.step().grad_norm == 4.5
