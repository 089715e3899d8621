"""`--dry-run`: rows taken all the way, and the size of the model."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from mars.actor.lora import add_adapters
from mars.actor.model import PolicyModel, ScoringSettings
from mars.checks import dry_run
from mars.checks.dry_run import memory_lines, rank_fit_lines, report, sample_lines
from mars.checks.memory import read_shape
from mars.checks.trained import check_trained, num_trained
from mars.config.load import load_config
from mars.errors import ConfigError, DataError, SetupError
from mars.inputs import load_inputs
from tests.builders import altered


@pytest.fixture
def configure(tiny, pictures, tmp_path):
    """rows of (images, question, truth) -> configuration."""

    def make(rows, *overrides, model=tiny):
        file = tmp_path / "train.jsonl"
        lines = [
            {
                "problem": "<image>" * len(images) + question,
                "images": [image.path.rsplit("/", 1)[1] for image in images],
                "answer": truth,
            }
            for images, question, truth in rows
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        given = [
            "cluster=local", "cluster.device=cpu", f"model.path='{model}'", f"data.train_files=['{file}']",
            f"data.image_root='{pictures[0].path.rsplit('/', 1)[0]}'", "data.prompts_per_step=2",
            "actor.prompts_per_update=2", "data.max_prompt_tokens=300", "data.min_image_pixels=784",
            "data.max_image_pixels=50176", "rollout.samples_per_prompt=3", "rollout.max_response_tokens=50",
            "rollout.max_model_len=400", "reward.num_workers=1",
        ]  # fmt: skip
        return load_config("train", [*given, *overrides], [])

    return make


def test_four_rows_go_all_the_way(configure, pictures, world, capsys):
    boxes = "[[1, 2, 20, 30], [5, 6, 9, 11]]"
    rows = [(pictures[: 1 + i % 3], "Find them.", boxes) for i in range(8)]
    config = configure(rows)
    report(config)
    text = capsys.readouterr().out
    assert text.count("sample   ") == 4
    assert text.count("perfect answer: score 1.75, accuracy 1\n") == 4
    assert text.count("empty answer: score 0, accuracy 0\n") == 4
    inputs = load_inputs(config, with_training_set=True)
    ids, images = inputs.encode(inputs.train.prompts[2], None)
    made = len(world.processor.process(ids, images).input_ids)
    assert f"train.jsonl:2\n                  {made} prompt tokens, images 64x48: " in text
    assert "memory per rank" in text


def test_text_rows_choices_and_functions_of_a_users_own(configure, pictures, tmp_path):
    config = configure([([], "How much?", "3"), (pictures[:2], "Bus?", "yes")], "reward=vqa")
    text = "\n".join(sample_lines(config, load_inputs(config, with_training_set=True)))
    assert "images none" in text
    assert text.count("perfect answer: score 1.5, accuracy 1") == 2
    (tmp_path / "own.py").write_text("def score(item):\n    return 1 / ('<answer>3' in item.response)\n")
    config = configure([(pictures[:2], "How much?", "3")] * 2, f"reward.function={tmp_path / 'own.py'}:score")
    warnings = []
    text = "\n".join(sample_lines(config, load_inputs(config, with_training_set=True), warnings.append))
    assert len(warnings) == 1
    assert "fails on the empty answer to 2 of 2 rows" in warnings[0]
    assert text.count("perfect answer: score 1, accuracy 1") == 2
    assert text.count("empty answer: failed, ") == 2
    config = config.model_copy(update={"algorithm": altered(config.algorithm, part_weights={"exact": 1.0})})
    with pytest.raises(ConfigError, match=r"algorithm\.part_weights: .* has no part exact; got none"):
        sample_lines(config, load_inputs(config, with_training_set=True))


def test_tokens_that_are_counted_wrongly_are_noticed(configure, pictures, monkeypatch):
    config = configure([(pictures[:2], "Find them.", "[[1, 2, 20, 30]]")] * 2)
    inputs = load_inputs(config, with_training_set=True)
    monkeypatch.setattr("mars.checks.dry_run.num_image_tokens", lambda size, budget: 3)
    with pytest.raises(DataError, match=r"train\.jsonl:0: \d+ prompt tokens counted, the processor made \d+"):
        sample_lines(config, inputs)


def with_mtp(source, folder):
    """A copy with weights for speculative decoding, which published folders of Qwen3.5 have and no policy loads."""
    shutil.copytree(source, folder)
    weights = load_file(source / "model.safetensors") | {"mtp.fc.weight": torch.zeros(96, 192)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_parameters_are_those_of_the_model(configure, pictures, tiny, tiny_qwen3, tiny_qwen3_5, tmp_path):
    from transformers import AutoModelForImageTextToText

    for folder in (tiny, tiny_qwen3, with_mtp(tiny_qwen3_5, tmp_path / "mtp")):
        config = json.loads((folder / "config.json").read_text())
        model = AutoModelForImageTextToText.from_pretrained(folder)
        shape = read_shape(config, folder)
        assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
        frozen = sum(parameter.numel() for parameter in model.model.visual.parameters())
        rows = [(pictures[:2], "x", "[[1, 2, 3, 4]]")] * 2
        given = configure(rows, "actor.freeze=[vision,projector]", model=folder)
        assert num_trained(given.model, given.actor) == shape.num_parameters - frozen
        assert f"{shape.num_parameters - frozen:,} of them trained" in memory_lines(given)[0]
        given = configure(rows, "actor.lora.rank=4", "actor.lora.parts=[vision,language]", model=folder)
        policy = PolicyModel(model, ScoringSettings(1.0, (), 1))
        add_adapters(policy, given.actor.lora, seed=0)
        adapters = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
        assert num_trained(given.model, given.actor) == adapters
        assert f"{adapters:,} in LoRA adapters" in memory_lines(given)[0]
        wrong = configure(rows, "actor.lora.rank=4", "actor.lora.targets=[fc]", model=folder)
        with pytest.raises(ConfigError, match=r"called fc; got .*down_proj"):
            check_trained(wrong.model, "actor", wrong.actor)
        text = model.config.text_config
        assert (shape.num_layers, shape.hidden_size) == (text.num_hidden_layers, text.hidden_size)
    lines = memory_lines(configure([(pictures[:2], "x", "[[1, 2, 3, 4]]")] * 2))
    assert lines[0].endswith(
        f"{read_shape(json.loads((tiny / 'config.json').read_text()), tiny).num_parameters:,} parameters"
    )


def test_memory_of_offloaded_ranks_and_of_groups(configure, pictures, monkeypatch):
    """A rank of a group of one holds what a single rank holds; offloaded, it holds the same in CPU memory."""
    read = dry_run.read_shape
    monkeypatch.setattr(dry_run, "read_shape", lambda *given: replace(read(*given), num_parameters=4 * 2**30))
    rows = [(pictures[:2], "x", "[[1, 2, 3, 4]]")] * 2
    _, one, _ = memory_lines(configure(rows))
    more = ("cluster=ray", "cluster.device=cpu", "actor.num_workers=2")
    assert "parameters 16.00," in one
    assert "parameters 8.00," in memory_lines(configure(rows, *more))[1]
    assert memory_lines(configure(rows, *more, "actor.fsdp_size=1"))[1] == one
    _, on_gpu, on_cpu, _ = memory_lines(configure(rows, "actor.offload=cpu"))
    assert on_gpu.startswith("memory per rank ")
    assert on_cpu.startswith("CPU memory a rank ")
    parts = [line.split("GiB: ")[1].split(", ") for line in (one, on_cpu, on_gpu)]
    assert parts[0] == parts[1] + parts[2]
    assert [part.rpartition(" ")[0] for part in parts[2]] == ["activations", "logits chunk"]


@pytest.mark.parametrize("data", [b"", b"\x00" * 4, struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 2) + b"[]"])
def test_weights_that_are_none_are_named(tmp_path, tiny, data):
    shutil.copy(tiny / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(SetupError, match=r"model\.safetensors"):
        read_shape(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    with pytest.raises(SetupError, match=r"config\.json"):
        read_shape({}, tmp_path)


def test_the_estimate_says_whether_a_gpu_is_large_enough_also_for_a_hub_name(
    configure, pictures, tiny, tmp_path, monkeypatch
):
    """The tiny model fits into the smallest share of a GPU; a hub name's weights are looked up in the cache."""
    one_gpu = ("cluster=local", "cluster.device=cuda", "rollout=hf", "cluster.gpu_memory_gib=1000",
               "algorithm.kl_coefficient=0.0")  # fmt: skip
    config = configure([(pictures[:2], "x", "[[1, 2, 3, 4]]")] * 2, *one_gpu)
    lines = memory_lines(config)
    assert [line.partition(":")[0] for line in lines[3:6]] == [
        f"on each GPU       {when}" for when in ("update", "new weights", "generation")
    ]
    assert all(line.endswith("of 1000.0: fits") for line in lines[3:6])
    cold_start = rank_fit_lines(config.model, config.actor, config.cluster.gpu_memory_gib)
    assert cold_start == [line for line in lines if "update" in line], "there is no reference model in either"
    on_hub = config.model_copy(update={"model": config.model.model_copy(update={"path": "someone/tiny"})})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert memory_lines(on_hub) == [
        "memory            not estimated, because the weights are not here; first: hf download someone/tiny"
    ]
    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert memory_lines(on_hub) == lines
