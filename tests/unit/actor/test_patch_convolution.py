"""The patch embedding as one product: the same numbers as the convolution."""

import pytest
import torch
from torch import nn

from mars.actor.model import PatchConvolution

KERNEL = (2, 14, 14)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_patches", [1, 7])
def test_outputs_and_gradients_are_those_of_the_convolution(bias, num_patches):
    torch.manual_seed(num_patches)
    convolution = nn.Conv3d(3, 5, KERNEL, stride=KERNEL, bias=bias, dtype=torch.float64)
    product = nn.Conv3d(3, 5, KERNEL, stride=KERNEL, bias=bias, dtype=torch.float64)
    product.load_state_dict(convolution.state_dict())
    product.__class__ = PatchConvolution
    patches, weights = torch.randn(num_patches, 3, *KERNEL).double(), torch.randn(num_patches, 5, 1, 1, 1).double()
    expected, found = convolution(patches), product(patches)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for left, right in zip(convolution.parameters(), product.parameters(), strict=True):
        torch.testing.assert_close(right.grad, left.grad)
