"""A checkpoint's weights as a model folder: the same bytes as the trainer's own."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.checkpoint import save
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from mars.actor.export import export_policy
from mars.actor.model import ScoringSettings, load_policy
from mars.actor.optimizer import Optimizer
from mars.actor.shards import trainer_state
from mars.actor.state import save_policy
from mars.errors import CheckpointError
from tests.builders import train_config

NO_LORA = train_config().actor.lora


def trained(folder, dtype, shards):
    """A policy whose weights have moved, and its shards."""
    config = train_config({"model.path": str(folder), "model.dtype": dtype})
    policy = load_policy(config.model, ScoringSettings(1.0, (), 16), "padded", gradient_checkpointing=False)
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters()):
            parameter.add_(1e-3 * (i + 1))
    optimizer = Optimizer(dict(policy.named_parameters()), config.actor, total_steps=None)
    writer = HuggingFaceStorageWriter(str(shards), save_distributed=True)
    with pytest.warns(UserWarning, match="single process"):
        save(trainer_state(policy, optimizer, 0, rank=0), storage_writer=writer, no_dist=True)
    return policy, config.model


@pytest.mark.parametrize(
    ("source", "dtype"), [("tiny", "float32"), ("tiny_tied", "bfloat16"), ("tiny_qwen3", "bfloat16")]
)
def test_an_exported_policy_is_the_saved_one(source, dtype, request, tmp_path):
    policy, model = trained(request.getfixturevalue(source), dtype, tmp_path / "shards")
    save_policy(policy, model, str(tmp_path / "policy"), is_writer=True)
    export_policy(str(tmp_path / "shards"), model, NO_LORA, str(tmp_path / "exported"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()} == files
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(files)


def test_shards_of_another_model_are_refused(tiny, tiny_qwen3, tmp_path):
    trained(tiny, "float32", tmp_path / "shards")
    other = train_config({"model.path": str(tiny_qwen3)}).model
    with pytest.raises(CheckpointError, match="the checkpoint must be of that model"):
        export_policy(str(tmp_path / "shards"), other, NO_LORA, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
