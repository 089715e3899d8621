"""A rank needs memory for its own shards, not for the whole model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.integration.forked import RUN
from tests.integration.loading_memory_job import __file__ as job
from tests.integration.workshop import run

SIZES = {
    "hidden_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 1792,
    "num_hidden_layers": 18,
}


@pytest.fixture(scope="module")
def large(tiny, tmp_path_factory):
    """A model of 63 million parameters, most of them in its layers, in bfloat16 as on the hub."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= SIZES | {"layer_types": ["full_attention"] * SIZES["num_hidden_layers"]}
    config["vision_config"]["out_hidden_size"] = SIZES["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    state = {name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_memory_grows_by_less_than_the_shards_and_a_layer(tiny, large, tmp_path):
    """While it loads, a rank has at most 1.2 x its shards and one layer more than before."""
    (tmp_path / "run").mkdir()
    done = run([job, str(tiny), str(large), "4", "8"], tmp_path / "run", RUN)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["is_loaded"]
    assert found["whole"] > 240e6
    assert found["shards"] == pytest.approx(found["whole"] / 4, rel=0.02)
    allowed = 1.2 * found["shards"] + found["layer"]
    assert allowed < 0.7 * found["whole"], "a whole copy would be noticed"
    assert found["shards"] < found["grown"] < allowed
