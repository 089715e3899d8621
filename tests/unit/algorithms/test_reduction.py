"""The four reductions by hand, and the loss whatever way the batch is split over micro-batches and ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.kl import kl_estimate
from mars.algorithms.policy_loss import PolicyLossSettings, policy_loss
from mars.algorithms.reduction import loss_counts, loss_denominator, reduce_loss
from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError
from tests.examples import examples

REDUCTIONS = ["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"]


# Losses 1 | 2, 3 | 6 in sequences of 1, 2 and 1 tokens; the constant is 8.
@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", 12 / 4),
        ("seq_mean_token_sum", (1 + 5 + 6) / 3),
        ("seq_mean_token_mean", (1 + 2.5 + 6) / 3),
        ("seq_mean_token_sum_norm", (1 + 5 + 6) / 8 / 3),
    ],
)
def test_by_hand(reduction, expected):
    packed = TokenLayout.packed(torch.tensor([1, 2, 1]))
    denominator = loss_denominator(reduction, 4, 3, 8)
    assert reduce_loss(torch.tensor([1.0, 2, 3, 6]), packed, reduction, denominator).item() == pytest.approx(expected)
    padded = TokenLayout.padded(torch.tensor([[1, 0], [1, 1], [1, 0]]))
    losses = torch.tensor([[1, float("nan")], [2, 3], [6, 100]])
    assert reduce_loss(losses, padded, reduction, denominator).item() == pytest.approx(expected)


# The same with an empty sequence before and after them: it is in no denominator.
@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 3.0), ("seq_mean_token_sum", 4.0), ("seq_mean_token_mean", 9.5 / 3),
     ("seq_mean_token_sum_norm", 0.5)],
)  # fmt: skip
def test_a_sequence_without_a_token_is_none(reduction, expected):
    lengths = [0, 1, 2, 1, 0]
    assert loss_counts(lengths) == (4, 3)
    denominator = loss_denominator(reduction, *loss_counts(lengths), 8)
    packed = TokenLayout.packed(torch.tensor(lengths))
    assert reduce_loss(torch.tensor([1.0, 2, 3, 6]), packed, reduction, denominator).item() == pytest.approx(expected)


@examples(60)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any),
    reduction=st.sampled_from(REDUCTIONS),
    kind=st.sampled_from(["clip", "gspo", "cispo"]),
    parts=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    padded=st.booleans(),
)
def test_any_split_over_micro_batches_and_ranks_gives_the_same(lengths, reduction, kind, parts, seed, padded):
    generator = torch.Generator().manual_seed(seed)
    new, old, ref = ([-torch.rand(n, generator=generator, dtype=torch.float64) for n in lengths] for _ in range(3))
    advantages = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    chosen = PolicyLossSettings(kind, 0.1, 0.15, None)
    denominator = loss_denominator(reduction, *loss_counts(lengths), 11)

    def part(chosen_sequences, as_padded):
        """Value, gradient by sequence and metric sums of some sequences."""
        leaves = [new[i].clone().requires_grad_() for i in chosen_sequences]
        sizes = torch.tensor([lengths[i] for i in chosen_sequences])
        if as_padded:
            join = lambda rows: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)  # noqa: E731
            layout = TokenLayout.padded(torch.arange(max(sizes.max(), 1)) < sizes[:, None])
            join_rows = join if sizes.max() > 0 else (lambda rows: torch.zeros(len(rows), 1, dtype=torch.float64))
        else:
            layout, join_rows = TokenLayout.packed(sizes), torch.cat
        logprobs = join_rows(leaves)
        spread = layout.spread(advantages[chosen_sequences])
        loss = policy_loss(logprobs, join_rows([old[i] for i in chosen_sequences]), spread, layout, chosen)
        kl = kl_estimate(logprobs, join_rows([ref[i] for i in chosen_sequences]), "k3")
        value = reduce_loss(loss.token_losses + 0.1 * kl, layout, reduction, denominator)
        if value.requires_grad:
            value.backward()
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        sums = torch.stack([loss.num_tokens, loss.num_clipped]).double()
        return value.detach(), dict(zip(chosen_sequences, gradients, strict=True)), sums, loss.kl_sum

    value, gradients, sums, kl_sum = part(list(range(len(lengths))), False)
    where = torch.randint(0, parts, (len(lengths),), generator=generator)
    groups = [g for g in (torch.nonzero(where == k).flatten().tolist() for k in range(parts)) if g]
    split = [part(group, padded) for group in groups]
    torch.testing.assert_close(sum(x[0] for x in split), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum(x[2] for x in split), sums)
    torch.testing.assert_close(sum(x[3] for x in split), kl_sum, rtol=1e-12, atol=1e-12)
    for _, part_gradients, _, _ in split:
        for i, gradient in part_gradients.items():
            torch.testing.assert_close(gradient, gradients[i], rtol=1e-12, atol=1e-14)


def test_local_means_would_not_do():
    """The mistake the arguments exist for: a mean of the parts' own means depends on the split."""
    losses, lengths = torch.tensor([1.0, 2, 3, 6]), [1, 3]
    whole = reduce_loss(losses, TokenLayout.packed(torch.tensor(lengths)), "token_mean", 4.0)
    parts = [losses[:1].mean(), losses[1:].mean()]
    assert whole.item() == 3.0
    assert (sum(parts) / 2).item() != whole.item()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_without_tokens_is_refused(reduction):
    with pytest.raises(ValueError, match="without tokens"):
        loss_denominator(reduction, 0, 0, 8)


def test_the_constant_must_be_set_where_it_is_divided_by():
    assert loss_denominator("token_mean", 5, 2, None) == 5.0
    with pytest.raises(ConfigError, match=r"algorithm\.reduction_tokens"):
        loss_denominator("seq_mean_token_sum_norm", 5, 2, None)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.reduction: unknown; got mean"):
        loss_denominator("mean", 5, 2, None)
