"""Log-probs and entropies in chunks: values, gradients and memory against the whole matrix of logits."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mars.actor.token_scores import token_scores

TOKENS, HIDDEN, VOCABULARY = 13, 6, 50
BLOCKED = torch.tensor([3, 49])


class LiveLogits(TorchDispatchMode):
    """Counts the tensors of `VOCABULARY` columns and at least two rows that exist at the same time."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.alive, self.most, self.tallest = rows, set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.shape[1] == VOCABULARY:
                storage = tensor.untyped_storage()
                if tensor.shape[0] > HIDDEN and storage._cdata not in self.alive:
                    self.alive.add(storage._cdata)
                    weakref.finalize(storage, self.alive.discard, storage._cdata)
                    self.tallest = max(self.tallest, tensor.shape[0])
        self.most = max(self.most, len(self.alive))
        return result


def whole(hidden, weight, targets, temperature):
    """The same from the whole matrix of logits, by autograd."""
    logits = (hidden.double() @ weight.double().T) / torch.as_tensor(temperature).double().reshape(-1, 1)
    logs = logits.index_fill(-1, BLOCKED, -1e30).log_softmax(dim=-1)
    return logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(logs.exp() * logs).sum(dim=-1)


def inputs(tokens=TOKENS, scale=3.0):
    generator = torch.Generator().manual_seed(tokens)
    hidden, weight = (
        torch.randn(tokens, HIDDEN, generator=generator),
        torch.randn(VOCABULARY, HIDDEN, generator=generator),
    )
    targets = torch.randint(4, 49, (tokens,), generator=generator)
    return (scale * hidden).requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6, torch.linspace(0.4, 1.6, TOKENS)])
def test_values_and_gradients_are_those_of_the_whole_matrix(temperature, entropy_gradient):
    for chunk in (1, 5, TOKENS, 100):
        hidden, weight, targets = inputs()
        slopes = torch.linspace(-2, 3, TOKENS)
        wanted = whole(hidden, weight, targets, temperature)
        loss = (wanted[0] * slopes).sum() + (wanted[1] * slopes.flip(0)).sum() * entropy_gradient
        gradients = torch.autograd.grad(loss, (hidden, weight))
        found = token_scores(
            hidden, weight, targets, blocked=BLOCKED, temperature=temperature, chunk_tokens=chunk,
            entropy_gradient=entropy_gradient,
        )  # fmt: skip
        assert found[1].requires_grad == entropy_gradient
        loss = (found[0] * slopes).sum() + (found[1] * slopes.flip(0)).sum() * entropy_gradient
        for mine, exact in zip(
            (*found, *torch.autograd.grad(loss, (hidden, weight))), (*wanted, *gradients), strict=True
        ):
            assert (mine - exact).norm() < 5e-6 * exact.norm()


def test_a_blocked_id_has_no_probability_and_no_gradient():
    hidden, weight, targets = inputs()
    targets[0] = BLOCKED[0]
    logprobs, entropies = token_scores(
        hidden, weight, targets, blocked=BLOCKED, temperature=1.0, chunk_tokens=4, entropy_gradient=True
    )
    assert logprobs[0] < -1e29
    assert entropies.isfinite().all()
    (logprobs.sum() + entropies.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert torch.equal(weight.grad[BLOCKED], torch.zeros(2, HIDDEN))


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_at_most_two_chunks_of_logits_exist(entropy_gradient):
    hidden, weight, targets = inputs(tokens=40)
    with LiveLogits(rows=10) as seen:
        found = token_scores(
            hidden,
            weight,
            targets,
            blocked=BLOCKED,
            temperature=0.7,
            chunk_tokens=10,
            entropy_gradient=entropy_gradient,
        )
        (found[0].sum() + found[1].sum() * entropy_gradient).backward()
    assert (seen.most, seen.tallest) == (2, 10)


@pytest.mark.parametrize("chunks", [1, 16, 64])
def test_the_gradient_of_a_head_in_16_bits_is_exact_but_for_rounding_twice(chunks):
    """The products of the chunks are rounded to bfloat16, and their sum once more, however many they are."""
    generator = torch.Generator().manual_seed(chunks)
    hidden = torch.randn(4 * chunks, 32, generator=generator).bfloat16()
    weight = torch.randn(VOCABULARY, 32, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(VOCABULARY, (4 * chunks,), generator=generator)
    logprobs, _ = token_scores(
        hidden, weight, targets, blocked=BLOCKED[:0], temperature=1.0, chunk_tokens=4, entropy_gradient=False
    )
    (found,) = torch.autograd.grad(logprobs.sum(), weight)
    assert found.dtype == torch.bfloat16
    logits = (hidden @ weight.detach().T).float()
    of_logits = torch.nn.functional.one_hot(targets, VOCABULARY) - logits.softmax(dim=-1)
    exact = of_logits.bfloat16().double().T @ hidden.double()
    once = (exact.bfloat16() - exact).norm()
    assert (found - exact).norm() < (1.01 if chunks == 1 else 1.8) * once


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_wider_head_is_added_up_in_its_own_type(dtype):
    """By the same operations as before: equal to the last bit."""
    hidden, weight, targets = (value.detach() for value in inputs())
    hidden, weight = hidden.to(dtype), weight.to(dtype).requires_grad_()
    logprobs, _ = token_scores(
        hidden, weight, targets, blocked=BLOCKED, temperature=1.0, chunk_tokens=5, entropy_gradient=False
    )
    (found,) = torch.autograd.grad(logprobs.sum(), weight)
    wanted = torch.zeros_like(weight)
    for rows in (slice(0, 5), slice(5, 10), slice(10, 13)):
        logits = (hidden[rows] @ weight.detach().T).float().index_fill(-1, BLOCKED, -1e30)
        largest = logits.max(dim=-1, keepdim=True).values
        normalizer = (logits - largest).exp().sum(dim=-1).log() + largest.squeeze(-1)
        slope = (logits - normalizer.unsqueeze(-1)).exp().mul(-1.0)
        slope.scatter_add_(-1, targets[rows].unsqueeze(-1), torch.ones(len(slope), 1))
        wanted.addmm_(slope.index_fill(-1, BLOCKED, 0.0).to(dtype).T, hidden[rows])
    assert torch.equal(found, wanted)


def test_a_frozen_head_gets_no_gradient_and_no_tokens_are_no_work():
    hidden, weight, targets = inputs()
    options = {"blocked": BLOCKED, "temperature": 1.0, "chunk_tokens": 4, "entropy_gradient": False}
    token_scores(hidden, weight.detach(), targets, **options)[0].sum().backward()
    assert hidden.grad.abs().sum() > 0
    logprobs, entropies = token_scores(hidden[:0], weight, targets[:0], **options)
    assert (logprobs.shape, entropies.shape) == ((0,), (0,))
    logprobs.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
