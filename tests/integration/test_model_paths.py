"""Where a model may be, and in which files: hub name or folder, shards, chat templates, old processor files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from mars.actor.model import ScoringSettings, load_policy
from mars.actor.state import save_policy
from mars.data.pixels.images import decode_image
from mars.data.prompts.budget import ImageBudget, num_image_tokens
from mars.data.prompts.chat import PromptEncoder, _warn_of_two_templates
from mars.data.prompts.processor import PromptProcessor
from mars.errors import SetupError
from mars.inputs import prompt_format
from mars.types import ImageRef, Message
from tests.builders import train_config
from tests.integration.whole_model_check import check_model

ASK = (Message("user", "<image>Where?"),)


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to)


def policy_of(path: str):
    model = train_config(path=path).model
    return load_policy(model, ScoringSettings(1.0, (), 16), "padded", gradient_checkpointing=False), model


def sharded(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shard_of = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(shard_of.values()):
        save_file({n: weights[n] for n in names if shard_of[n] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("tiny_model", ["tiny", "tiny_tied"])
def test_shards_are_one_model_which_is_saved_as_one(request, tmp_path, tiny_model):
    whole = request.getfixturevalue(tiny_model)
    folder = copied(whole, tmp_path / "shards")
    sharded(folder)
    check_model(str(folder))
    (one, model), (other, _) = policy_of(str(folder)), policy_of(str(whole))
    wanted = other.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in one.state_dict().items())
    save_policy(one, model, str(tmp_path / "saved"), is_writer=True)
    check_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("*.index.json"))


def test_the_weights_for_speculative_decoding_are_left_out(tiny_qwen3_5, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(tiny_qwen3_5, tmp_path / "published")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"mtp.fc.weight": torch.zeros(2, 2)}, folder / "model.safetensors", {"format": "pt"})
    check_model(str(folder))
    policy, model = policy_of(str(folder))
    save_policy(policy, model, str(tmp_path / "saved"), is_writer=True)
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == weights.keys()
    check_model(str(tmp_path / "saved"))


def test_a_name_of_the_hub_is_the_folder_in_its_cache(tiny_qwen3, tmp_path, monkeypatch):
    import huggingface_hub.constants

    repository = tmp_path / "models--a--tiny"
    copied(tiny_qwen3, repository / "snapshots" / "1234")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1234")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_model("a/tiny")
    named, local = (prompt_format(train_config(path=path)) for path in ("a/tiny", str(tiny_qwen3)))
    assert named.encoder.token_rules() == local.encoder.token_rules()
    assert named.encoder.encode(ASK, 1) == local.encoder.encode(ASK, 1)
    assert (named.budget, named.frames.box_space) == (local.budget, "norm_1000")
    policy, model = policy_of("a/tiny")
    save_policy(policy, model, str(tmp_path / "saved"), is_writer=True)
    check_model(str(tmp_path / "saved"))
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {file.name for file in tiny_qwen3.iterdir()}
    config = repository / "snapshots" / "1234" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "llava"}))
    with pytest.raises(SetupError, match=r"a/tiny/config\.json: model_type must be one of .*; got 'llava'"):
        prompt_format(train_config(path="a/tiny"))


def test_places_of_the_chat_template(tiny, tmp_path, caplog):
    """The processor's file counts, in its new or its old form, before the tokenizer's, which may know no images."""
    folder = copied(tiny, tmp_path / "model")
    own, config = folder / "chat_template.jinja", json.loads((folder / "tokenizer_config.json").read_text())
    template = own.read_text()
    wanted = PromptEncoder.from_pretrained(str(tiny)).encode(ASK, 1)
    blind = "{% for m in messages %}{{ m.content if m.content is string else m.content[-1].text }}{% endfor %}"

    def encoded():
        return PromptEncoder.from_pretrained(str(folder)).encode(ASK, 1)

    def in_tokenizer(text):
        (folder / "tokenizer_config.json").write_text(json.dumps(config | ({"chat_template": text} if text else {})))

    in_tokenizer(blind)
    assert encoded() == wanted
    own.unlink()
    old = folder / "chat_template.json"
    old.write_text(json.dumps({"chat_template": template}))
    for _ in range(2):
        assert encoded() == wanted
    assert [record.message for record in caplog.records if "templates" in record.message] == [
        f"model.path: {folder}/chat_template.json and {folder}/tokenizer_config.json have different chat templates; "
        "chat_template.json's is used"
    ]
    _warn_of_two_templates.cache_clear()
    caplog.clear()
    in_tokenizer(template)
    assert encoded() == wanted
    in_tokenizer([{"name": "default", "template": template}, {"name": "tools", "template": blind}])
    assert encoded() == wanted
    in_tokenizer(None)
    assert encoded() == wanted
    assert not [record for record in caplog.records if "templates" in record.message]
    old.unlink()
    in_tokenizer(template)
    assert encoded() == wanted
    in_tokenizer([{"name": "default", "template": template}, {"name": "tools", "template": blind}])
    assert encoded() == wanted
    in_tokenizer(blind)
    with pytest.raises(SetupError, match=r"tokenizer_config\.json: the chat template makes 0 image placeholders of 1"):
        encoded()


@pytest.mark.parametrize("suffix", ["", "Fast", None])
@pytest.mark.parametrize("tiny_model", ["tiny", "tiny_qwen3", "tiny_qwen3_5", "tiny_qwen2", "tiny_internvl"])
def test_limits_in_an_old_processor_file_do_not_replace_those_of_the_run(request, tmp_path, tiny_model, suffix):
    folder = copied(request.getfixturevalue(tiny_model), tmp_path / "model")
    new = json.loads((folder / "processor_config.json").read_text())
    images = new.pop("image_processor") | {"processor_class": new["processor_class"]}
    if tiny_model == "tiny_internvl":
        images |= {"max_patches": 1, "crop_to_patches": False}
        (folder / "processor_config.json").write_text(json.dumps(new))  # a new file without the image processor
    else:
        images |= {"min_pixels": 784, "max_pixels": 1568}
        del images["size"]
        (folder / "processor_config.json").unlink()
    kind = images.pop("image_processor_type")
    images |= {} if suffix is None else {"image_processor_type": kind + suffix}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))

    Image.new("RGB", (200, 90)).save(tmp_path / "x.png")
    image, rules = (
        ImageRef(str(tmp_path / "x.png"), (200, 90)),
        PromptEncoder.from_pretrained(str(folder)).token_rules(),
    )
    budget = ImageBudget.from_pretrained(str(folder), 784, 20_000)
    processor = PromptProcessor(str(folder), decode=decode_image, budget=budget, rules=rules, cache_bytes=0)
    assert len(processor.process((rules.image_id,), (image,)).input_ids) == num_image_tokens(image.size, budget) > 8
    check_model(str(folder))


@pytest.mark.parametrize("tiny_model", ["tiny", "tiny_qwen3", "tiny_qwen3_5", "tiny_qwen2", "tiny_internvl"])
@pytest.mark.parametrize("declared", [None, "<|endoftext|>"])
def test_a_response_ends_as_in_the_chat_template_whatever_end_the_tokenizer_has(
    request, tmp_path, tiny_model, declared
):
    folder = copied(request.getfixturevalue(tiny_model), tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if declared is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": declared}))
        (folder / "generation_config.json").unlink()
    encoder = PromptEncoder.from_pretrained(str(folder))
    turn_end = encoder.encode_response("yes")[-1]
    assert (
        encoder.encode((Message("user", "q"), Message("assistant", "yes"), Message("user", "q")), 0).count(turn_end) > 2
    )
    assert encoder.token_rules().eos_ids[0] == turn_end
    assert len(encoder.token_rules().eos_ids) == 1 + (declared is not None)
