"""The patch embedding as one product: the same numbers as the convolution, the same weights in the saved policy."""

import pytest
import torch
from torch import nn

from mars.actor.model import PatchConvolution, ScoringSettings, load_policy
from mars.data.synthetic.tiny_model import build_tiny
from tests.builders import train_config

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


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_policy_has_it_and_keeps_the_names_of_its_weights(tmp_path, family):
    from transformers import AutoModelForImageTextToText

    build_tiny(tmp_path, seed=0, family=family)
    policy = load_policy(train_config(path=str(tmp_path)).model, ScoringSettings(1.0, (), 64), "padded", False)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(policy.backbone.model.visual.patch_embed.proj) is PatchConvolution
    assert list(policy.backbone.state_dict()) == list(plain.state_dict())
