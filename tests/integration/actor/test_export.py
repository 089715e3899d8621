"""A checkpoint's weights as a model folder: the same bytes as the trainer's own."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from torch.distributed.checkpoint import save
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from mars.actor import export
from mars.actor.export import export_policy
from mars.actor.model import ScoringSettings, load_policy
from mars.actor.optimizer import Optimizer
from mars.actor.shards import trainer_state
from mars.actor.state import save_policy
from mars.checks.exported import check_exported
from mars.errors import CheckpointError, SetupError
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


def test_a_weight_that_is_read_otherwise_than_written_is_told(tiny, tmp_path, monkeypatch):
    trained(tiny, "float32", tmp_path / "shards")
    save = export.save_policy

    def save_on_a_bad_disk(policy, model, folder, is_writer):
        save(policy, model, folder, is_writer)
        file = tmp_path / "out" / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    monkeypatch.setattr(export, "save_policy", save_on_a_bad_disk)
    model = train_config({"model.path": str(tiny), "model.dtype": "float32"}).model
    with pytest.raises(SetupError, match="1 weights are not as they were written: "):
        export_policy(str(tmp_path / "shards"), model, NO_LORA, str(tmp_path / "out"))


def test_a_weight_that_is_not_a_number_is_itself(tiny, tmp_path):
    policy, model = trained(tiny, "float32", tmp_path / "shards")
    with torch.no_grad():
        next(policy.parameters()).view(-1)[0] = float("nan")
    save_policy(policy, model, str(tmp_path / "out"), is_writer=True)
    export.check_saved(policy, model, str(tmp_path / "out"))


@pytest.mark.parametrize("file", ["chat_template.jinja", "processor_config.json", "generation_config.json"])
def test_a_folder_with_other_files_than_the_model_is_told(tiny, tmp_path, file):
    out = tmp_path / "out"
    shutil.copytree(tiny, out)
    config = train_config({"model.path": str(tiny)})
    check_exported(out, config)
    text = (out / file).read_text()
    changed = {
        "chat_template.jinja": "Look!" + text,
        "processor_config.json": re.sub(r'("image_mean": \[\s*)[0-9.]+', r"\g<1>0.25", text),
        "generation_config.json": re.sub(r'("eos_token_id":) *\[?\s*(\d+)[^}]*', r"\1 [\2, 3]", text),
    }[file]
    assert changed != text
    (out / file).write_text(changed)
    with pytest.raises(SetupError, match=r"differ from those of model\.path"):
        check_exported(out, config)


def test_shards_of_another_model_are_refused(tiny, tiny_qwen3, tmp_path):
    trained(tiny, "float32", tmp_path / "shards")
    other = train_config({"model.path": str(tiny_qwen3)}).model
    with pytest.raises(CheckpointError, match="the checkpoint must be of that model"):
        export_policy(str(tmp_path / "shards"), other, NO_LORA, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
