"""The vision tower's attention against transformers' own, which calls it window by window."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mars.actor import vision_attention
from mars.actor.model import ScoringSettings, load_policy
from mars.actor.state import save_policy
from mars.actor.vision_attention import SEGMENTS
from tests.builders import train_config
from tests.tiny_world import distance

# Grids in patches: whole windows only, windows cut at both edges, narrower than a window, and two alike.
GRIDS = [(16, 24), (12, 20), (4, 4), (6, 30), (6, 30)]


@pytest.fixture(params=["tiny", "tiny_qwen3"])
def towers(request):
    """transformers' vision tower and ours, with the same hot weights."""
    folder = request.getfixturevalue(request.param)
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).model.visual
    model = train_config(path=str(folder)).model
    mine = load_policy(model, ScoringSettings(1.0, (), 16), "shared_prefix", False).backbone.model.visual
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.12, generator=noise)
    mine.load_state_dict(plain.state_dict())
    return plain, mine


def seen(visual, grids):
    """Features and gradients of a weighted sum."""
    visual.zero_grad()
    patches = sum(h * w for h, w in grids)
    channels = 3 * visual.config.temporal_patch_size * visual.config.patch_size**2
    pixels = torch.randn(patches, channels, generator=torch.Generator().manual_seed(8))
    features = visual(pixels, grid_thw=torch.tensor([(1, h, w) for h, w in grids])).pooler_output
    (features * torch.linspace(-1, 1, features.numel()).cos().view_as(features)).sum().backward()
    return features.detach(), {n: p.grad.clone() for n, p in visual.named_parameters() if p.grad is not None}


def test_features_and_gradients_are_those_of_transformers(towers):
    plain, mine = towers
    assert (plain.config._attn_implementation, mine.config._attn_implementation) == ("sdpa", SEGMENTS)
    (wanted, wanted_gradients), (found, gradients) = seen(plain, GRIDS), seen(mine, GRIDS)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert distance(gradients, wanted_gradients) < 2e-6


def test_a_layer_takes_one_call_for_all_windows_of_one_size(towers, monkeypatch):
    _, mine = towers
    calls, attend = [], vision_attention.scaled_dot_product_attention
    monkeypatch.setattr(
        vision_attention, "scaled_dot_product_attention", lambda *a, **k: calls.append(len(a[0])) or attend(*a, **k)
    )
    seen(mine, [(16, 24)] * 2)
    windows = 12 if mine.config.model_type.startswith("qwen2_5") else None  # of 8 x 8 patches, in one of two layers
    assert sorted(calls) == ([2, windows] if windows else [2, 2])


def test_a_saved_model_names_no_attention_of_ours(tiny, tmp_path):
    model = train_config(path=str(tiny)).model
    policy = load_policy(model, ScoringSettings(1.0, (), 16), "shared_prefix", False)
    save_policy(policy, model, str(tmp_path / "saved"), is_writer=True)
    assert "mars_" not in json.dumps(json.loads((tmp_path / "saved" / "config.json").read_text()))
