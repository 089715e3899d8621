"""The patch embedding of a policy: one product, under the names that its weights have in transformers."""

import pytest
import torch

from mars.actor.model import PatchConvolution, ScoringSettings, load_policy
from mars.data.synthetic.tiny_model import build_tiny
from tests.builders import train_config


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_policy_has_it_and_keeps_the_names_of_its_weights(tmp_path, family):
    from transformers import AutoModelForImageTextToText

    build_tiny(tmp_path, seed=0, family=family)
    policy = load_policy(train_config(path=str(tmp_path)).model, ScoringSettings(1.0, (), 64), "padded", False)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(policy.backbone.model.visual.patch_embed.proj) is PatchConvolution
    assert list(policy.backbone.state_dict()) == list(plain.state_dict())
