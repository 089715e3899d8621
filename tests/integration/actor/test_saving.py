"""The trained policy's folder: weights, config.json, and every other file of the model it came from, unchanged."""

from __future__ import annotations

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mars.actor.model import ScoringSettings, load_policy
from mars.actor.state import save_policy
from mars.errors import SetupError
from tests.builders import train_config
from tests.integration.whole_model_check import check_model

# Sampling settings beside greedy decoding: several public checkpoints have them, transformers refuses to write them.
GREEDY = {"do_sample": False, "temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05}


@pytest.fixture
def source(tiny, tmp_path) -> Path:
    """A model's folder with such settings, a second chat template and files that transformers does not know."""
    folder = tmp_path / "source"
    shutil.copytree(tiny, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | GREEDY))
    (folder / "merges.txt").write_text("a b\n")
    (folder / "extra.json").write_text('{"kept":   "as it is"}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (folder / "optimizer.bin").write_bytes(b"0")
    return folder


def policy_of(folder: Path):
    model = train_config({"model.path": str(folder)}).model
    policy = load_policy(model, ScoringSettings(1.0, (), 16), "padded", gradient_checkpointing=False)
    with torch.no_grad():
        policy.backbone.lm_head.weight.add_(1.0)
    return policy, model


@contextmanager
def file_size_limit(most: int):
    """As `ulimit -f` sets it, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def same_weights(folder: Path, policy) -> bool:
    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    return all(torch.equal(value, saved[name]) for name, value in policy.backbone.state_dict().items())


def test_files_of_the_model_are_carried_over_unchanged(source, tmp_path):
    check_model(str(source))
    policy, model = policy_of(source)
    out, generation = tmp_path / "policy", policy.backbone.generation_config
    save_policy(policy, model, str(out), is_writer=True)
    names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert names == {str(f.relative_to(source)) for f in source.rglob("*") if f.is_file()} - {"optimizer.bin"}
    for name in names - {"config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (source / name).read_bytes(), name
    assert same_weights(out, policy)
    before, after = (AutoProcessor.from_pretrained(folder) for folder in (source, out))
    assert after.chat_template == before.chat_template
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert policy.backbone.generation_config is generation  # the policy itself is left as it was
    check_model(str(out))


def test_a_folder_without_generation_settings_gets_none(source, tmp_path):
    """Not those of transformers, which it would derive from config.json and may refuse to write."""
    (source / "generation_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"temperature": 0.1, "do_sample": False}))
    policy, model = policy_of(source)
    save_policy(policy, model, str(tmp_path / "policy"), is_writer=True)
    assert not (tmp_path / "policy" / "generation_config.json").exists()
    assert same_weights(tmp_path / "policy", policy)


def test_weights_are_saved_where_transformers_refuses(source, tmp_path, monkeypatch):
    policy, model = policy_of(source)
    out = tmp_path / "policy"

    def refuse(*args, **kwargs):
        raise ValueError("no such setting")

    monkeypatch.setattr(policy.backbone.config, "save_pretrained", refuse, raising=False)
    with pytest.raises(
        SetupError, match=rf"only the weights .* in {out}/model\.safetensors: .*no such setting; "
    ) as caught:
        save_policy(policy, model, str(out), is_writer=True)
    assert caught.value.exit_code == 4
    shutil.copy(source / "config.json", out)  # as the message says
    assert same_weights(out, policy)


def test_a_file_that_cannot_be_copied_is_named_after_all_others_are_there(source, tmp_path, monkeypatch):
    policy, model = policy_of(source)
    out = tmp_path / "policy"
    (out / "tokenizer.json").mkdir(parents=True)  # in the way
    with pytest.raises(SetupError, match=r"has the weights and config\.json .* not be copied: tokenizer\.json \("):
        save_policy(policy, model, str(out), is_writer=True)
    assert same_weights(out, policy)
    assert (out / "tokenizer_config.json").is_file()


def test_nothing_can_be_saved_at_all(source, tmp_path):
    policy, model = policy_of(source)
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot be saved: .*; saving only its weights failed too: "):
        save_policy(policy, model, str(tmp_path / "file" / "policy"), is_writer=True)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_without_weights_does_not_stay(source, tmp_path, is_there):
    """The limit lets config.json through. A folder from before keeps the user's files."""
    policy, model = policy_of(source)
    out = tmp_path / "policy"
    if is_there:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with file_size_limit(8000), pytest.raises(SetupError, match=r"cannot be saved: .*only its weights failed too: "):
        save_policy(policy, model, str(out), is_writer=True)
    assert out.exists() == is_there
    assert not is_there or (out / "notes.txt").read_text() == "mine"


def test_what_saving_will_refuse_is_found_before_training(source, monkeypatch):
    from transformers import PreTrainedConfig

    def refuse(*args, **kwargs):
        raise ValueError("no such setting")

    def forbid(*args):
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedConfig, "save_pretrained", refuse)
        with pytest.raises(SetupError, match=r"config\.json: cannot be saved: ValueError: no such setting; "):
            check_model(str(source))
    with monkeypatch.context() as patch:
        patch.setattr(
            "mars.actor.model_files.shutil.copyfile", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no"))
        )
        with pytest.raises(SetupError, match=r"cannot be copied to the trained policy: .*merges\.txt \(no\)"):
            check_model(str(source))


@pytest.mark.parametrize(("most", "name"), [(100, r"config\.json"), (10_000, r"\S+\.json")])
def test_a_limit_of_file_sizes_is_not_a_fault_of_the_model(source, most, name):
    """The tiny model's tokenizer has more than 10 kB."""
    said = rf"where {name} could not be written \(File too large\); raise the limit"
    with file_size_limit(most), pytest.raises(SetupError, match=said):
        check_model(str(source))
