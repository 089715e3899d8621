"""Which state each response of a pack continues from, by hand: the state is the sum of all tokens before.

The real layer is compared with transformers in tests/integration/actor/test_shared_prefix.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mars.actor import linear_attention
from mars.actor.prefix_attention import SharedPrefixLayout


def test_each_response_continues_from_its_prompt(monkeypatch):
    began = []

    def scan(layer, inputs, before, state):
        """A running sum [B, L, 1, 1]; `before` are the last two tokens."""
        (tokens,) = inputs
        sums = tokens.cumsum(1) + (0 if state is None else state.unsqueeze(1))
        began.extend(before[..., 0].tolist())
        return sums.unsqueeze(-1), sums[:, -1], torch.cat([before, tokens], dim=1)[:, -2:]

    monkeypatch.setattr(linear_attention, "_scan", scan)
    pack = torch.tensor([1.0, 2, 3, 10, 20, 30, 40, 100, 5, 7, 1]).unsqueeze(-1)
    layout = SharedPrefixLayout.of([(3, [1, 3, 1]), (1, []), (1, [1])])
    found = linear_attention._scan_pack(SimpleNamespace(conv_kernel_size=3), (pack,), layout)
    assert found.flatten().tolist() == [1, 3, 6, 16, 26, 56, 96, 106, 5, 7, 8]
    # Prompts begin after nothing, responses after the last two tokens of their prompt: those of one token first.
    assert began == [[0, 0], [2, 3], [2, 3], [2, 3], [0, 0], [0, 0], [0, 7]]
