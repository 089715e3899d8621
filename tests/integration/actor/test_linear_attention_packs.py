"""One layer with linear attention: packs against transformers' rows, over several chunks of the kernel.

The state decays slowly (A = exp(-4)), so that what a prompt leaves still counts hundreds of tokens later.
"""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet, Qwen3_5TextConfig

from mars.actor import linear_attention
from mars.actor.linear_attention import pack_forward
from mars.actor.prefix_attention import SharedPrefixLayout

GROUPS = [(1, [3, 1, 70, 200]), (65, [1, 128]), (64, [64, 65])]


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    sizes = {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    config = Qwen3_5TextConfig(hidden_size=16, linear_value_head_dim=8, num_hidden_layers=4, **sizes)
    made = Qwen3_5GatedDeltaNet(config, 0)
    with torch.no_grad():
        made.A_log.fill_(-4.0)
        for matrix in (made.in_proj_qkv, made.in_proj_z, made.in_proj_b, made.in_proj_a, made.out_proj):
            matrix.weight.normal_(0.0, 0.3)
    return made


@pytest.fixture(scope="module")
def pack():
    length = sum(prompt + sum(responses) for prompt, responses in GROUPS)
    return torch.randn(1, length, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()


def in_rows(layer, pack):
    """The layer's output on each prompt with each response: of a prompt once, and of the response."""
    outputs, start = [], 0
    for prompt, responses in GROUPS:
        before, start = pack[:, start : start + prompt], start + prompt
        outputs.append(layer(before))
        for count in responses:
            row = torch.cat([before, pack[:, start : start + count]], dim=1)
            outputs.append(layer(row)[:, prompt:])
            start += count
    return torch.cat(outputs, dim=1)


def gradients(layer, pack, outputs):
    weights = torch.linspace(-1, 1, outputs.numel()).cos().view_as(outputs)
    return torch.autograd.grad((outputs * weights).sum(), [pack, *layer.parameters()])


def test_packs_are_rows_over_several_chunks(layer, pack):
    mine, rows = pack_forward(layer, pack, shared_prefix=SharedPrefixLayout.of(GROUPS)), in_rows(layer, pack)
    torch.testing.assert_close(mine, rows, atol=1e-5, rtol=0)
    for one, other in zip(gradients(layer, pack, mine), gradients(layer, pack, rows), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("forgotten", ["state", "convolution"])
def test_a_response_that_starts_from_nothing_shows(layer, pack, monkeypatch, forgotten):
    scan = linear_attention._scan

    def wrong(layer, inputs, before, state):
        if state is not None:
            state, before = (state * 0, before) if forgotten == "state" else (state, before * 0)
        return scan(layer, inputs, before, state)

    monkeypatch.setattr(linear_attention, "_scan", wrong)
    with torch.no_grad():
        found = pack_forward(layer, pack, shared_prefix=SharedPrefixLayout.of(GROUPS)) - in_rows(layer, pack)
    last = found[0, -65:].abs().amax(dim=1)  # of a prompt of 64 tokens
    assert last[0] > 1e-2
    assert forgotten == "convolution" or last[-1] > 1e-4, "the state still counts at the last token"
