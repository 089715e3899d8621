import pytest
import torch

from mars.algorithms.token_layout import TokenLayout

MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]])


def test_padded_and_packed_describe_the_same_tokens():
    values = torch.arange(12.0).reshape(4, 3)
    padded, packed = TokenLayout.padded(MASK), TokenLayout.packed(torch.tensor([3, 1, 0, 2]))
    flat = values[MASK.bool()]
    assert padded.sum_by_sequence(values).tolist() == [3.0, 3.0, 0.0, 19.0]
    assert packed.sum_by_sequence(flat).tolist() == [3.0, 3.0, 0.0, 19.0]
    assert padded.lengths().tolist() == packed.lengths().tolist() == [3, 1, 0, 2]
    per_sequence = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert packed.spread(per_sequence).tolist() == [1, 1, 1, 2, 4, 4]
    assert torch.equal(padded.spread(per_sequence)[MASK.bool()], packed.spread(per_sequence))


def test_masked_values_are_replaced_and_get_no_gradient():
    values = torch.tensor([1.0, float("nan"), float("inf")], requires_grad=True)
    layout = TokenLayout(torch.tensor([True, False, False]), torch.zeros(3, dtype=torch.int64), 1)
    layout.sum_by_sequence(values).sum().backward()
    assert layout.keep(values).tolist() == [1.0, 0.0, 0.0]
    assert values.grad.tolist() == [1.0, 0.0, 0.0]


def test_an_empty_layout_sums_to_nothing():
    layout = TokenLayout.packed(torch.empty(0, dtype=torch.int64))
    assert layout.sum_by_sequence(torch.empty(0)).tolist() == []


@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(2)], ids=["shape", "dtype"])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match="mask must be bool"):
        TokenLayout(mask, torch.zeros(2, dtype=torch.int64), 1)
