"""The vision tower's attention by hand. tests/integration/actor compares it with transformers' own."""

from __future__ import annotations

import pytest
import torch

from mars.actor import vision_attention
from mars.actor.vision_attention import attend_batched, segment_attention


def test_by_hand():
    """With equal keys a token's output is the mean of its own segment's values."""
    query, value = torch.zeros(5, 1, 4), torch.tensor([1.0, 3.0, 5.0, 7.0, 100.0])
    out = attend_batched(query, query, value.view(5, 1, 1).expand(5, 1, 4), torch.tensor([0, 2, 4, 5]), 1.0)
    assert out[:, 0, 0].tolist() == [2.0, 2.0, 6.0, 6.0, 100.0]


def test_on_a_gpu_it_is_one_call_of_variable_length_attention(monkeypatch):
    """A stand-in for the kernel gets the segments as they are, and its output is taken."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    given = []
    monkeypatch.setattr(vision_attention, "takes_varlen", lambda _: True)
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, k, v, *rest, **options: given.append((rest, options)) or v * 2)
    query, key, value = torch.randn(3, 1, 4, 6, 8).unbind()
    ends = torch.tensor([0, 4, 6], dtype=torch.int32)
    out, _ = segment_attention(None, query, key, value, None, cu_seq_lens_q=ends, max_length_q=4, scaling=0.5)
    assert torch.equal(out, value.transpose(1, 2) * 2)
    assert given == [((ends, ends, 4, 4), {"scale": 0.5})]


def test_what_these_towers_do_not_have_is_refused():
    x = torch.zeros(1, 1, 2, 4)
    options = {"cu_seq_lens_q": torch.tensor([0, 2]), "max_length_q": 2, "scaling": 1.0}
    with pytest.raises(NotImplementedError, match="dropout"):
        segment_attention(None, x, x, x, None, dropout=0.1, **options)
    with pytest.raises(NotImplementedError, match="mask"):
        segment_attention(None, x, x, x, torch.ones(2, 2), **options)
