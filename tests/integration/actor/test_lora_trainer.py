"""`actor.lora` on the tiny models: gradients, merged weights, the reference, checkpoints and exports."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from mars.actor.export import export_adapter, export_policy
from mars.actor.parts import part_of
from mars.actor.shards import trainer_state
from mars.actor.state import full_state, weight_buckets
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.errors import CheckpointError
from mars.rollout.hf_engine import HfEngine
from mars.types import RolloutRequest, Sampling
from tests.builders import altered, completions
from tests.tiny_world import GRPO, TinyWorld, distance, gradients, response_logprobs, sampled_prompt

LORA = {"lora.rank": 3, "lora.alpha": 6.0, "lora.parts": ["language", "vision", "projector"]}
SCALE = 6.0 / 3


def batch_of(world, pictures, packing="shared_prefix", per_update=100):
    prompts = [
        world.train_prompt("a", pictures[:2], [5, 9, 2]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[1]], [4, 12], rewards=[0.0, 1.0]),
    ]
    return world.batch(prompts, per_update=per_update, packing=packing)


def trained(world, pictures, **changes):
    """A trainer whose adapters are no longer 0."""
    trainer = world.trainer(**LORA | {"learning_rate": 2e-2} | changes)
    trainer.update(batch_of(world, pictures, changes.get("packing", "shared_prefix"), per_update=1))
    return trainer


@pytest.mark.parametrize(
    ("family", "packing", "checkpointing"),
    [
        ("world", "shared_prefix", True),
        ("qwen3_world", "padded", False),
        ("internvl_world", "shared_prefix", False),
        ("qwen3_5_world", "shared_prefix", True),
    ],
)
def test_gradients_are_those_of_the_merged_weights_by_the_chain_rule(
    family, packing, checkpointing, pictures, request, tmp_path
):
    """W' = W + s B A, so dA = s B^T dW' and dB = s dW' A^T, with dW' from training all of the merged model."""
    world = request.getfixturevalue(family)
    trainer = trained(world, pictures, packing=packing, gradient_checkpointing=checkpointing)
    trainer.save(str(tmp_path / "policy"))
    adapters = {name.removeprefix("backbone."): p.full_tensor() for name, p in trainer._policy.named_parameters()}
    adapters = {name: value.detach().clone() for name, value in adapters.items() if "lora_" in name}
    names = [name.removesuffix(".lora_A") for name in adapters if name.endswith("lora_A")]
    assert {part_of(name, trainer._policy.family.parts) for name in names} == set(LORA["lora.parts"])
    batch = batch_of(world, pictures, packing)
    (mine,) = gradients(trainer, batch)
    (whole,) = gradients(TinyWorld(tmp_path / "policy").trainer(packing=packing), batch)
    wanted = {}
    for name in names:
        wanted[f"{name}.lora_A"] = SCALE * adapters[f"{name}.lora_B"].T @ whole[f"{name}.weight"]
        wanted[f"{name}.lora_B"] = SCALE * whole[f"{name}.weight"] @ adapters[f"{name}.lora_A"].T
    assert distance(mine, wanted) < 1e-4


@pytest.mark.parametrize("family", ["tied_world", "qwen3_world", "qwen3_5_world"])
def test_the_engine_computes_what_the_trainer_does_after_an_update(family, pictures, request):
    world = request.getfixturevalue(family)
    config = world.config(**LORA, max_response_tokens=12)
    engine = HfEngine(
        config, world.rules, process=world.processor.process, fetch=lambda payload: payload.items()
    )  # fmt: skip
    images = tuple(pictures[:2])
    request_ = RolloutRequest("a", None, world.prompt_ids("a", images), images, 2, 7, Sampling(1.0, 1.0, 0, 12))
    trainer = trained(world, pictures)

    def difference():
        (answers,) = completions(engine, [request_])
        scored = response_logprobs(trainer, [sampled_prompt(request_, [answer.token_ids for answer in answers])])
        pairs = zip(answers, scored, strict=True)
        return max(abs(a - b) for answer, own in pairs for a, b in zip(answer.logprobs, own, strict=True))

    assert difference() > 1e-2, "the update must matter for this test to mean anything"
    engine.load_weights(trainer.publish_weights())
    assert difference() < 1e-4


@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_the_kl_is_to_the_model_without_adapters(world, pictures, packing, tmp_path):
    """Which is not loaded a second time; a copy under another name is, and gives the same."""
    copy, batch = shutil.copytree(world.folder, tmp_path / "copy"), batch_of(world, pictures, packing)
    found = []
    for reference in (world.folder, copy):
        objective = altered(GRPO, kl_coefficient=0.3, kl_reference=str(reference))
        trainer = trained(world, pictures, packing=packing, objective=objective)
        kl = trainer.score_responses(batch, KL_TO_REFERENCE).values
        found.append((kl, gradients(trainer, batch)[0], trainer.score_responses(batch, KL_TO_REFERENCE).values))
        loaded = any("backbone" in name for name, _ in getattr(trainer._reference, "named_parameters", list)())
        assert loaded is (reference == copy)
    (kl, mine, after), (wanted_kl, wanted, wanted_after) = found
    assert (kl, after) == (wanted_kl, wanted_after)
    assert max(max(row) for row in kl) > 1e-3
    assert all(torch.equal(mine[name], wanted[name]) for name in wanted)


@pytest.fixture
def run(tied_world, pictures, tmp_path):
    """A trainer after an update, the folder of its shards, and that of its policy."""
    shards = tmp_path / "shards"
    shards.mkdir()
    trainer = trained(tied_world, pictures)
    trainer.start_checkpoint(str(shards))
    while not (shards / "rank_00000.json").exists():
        time.sleep(0.01)
    trainer.save(str(tmp_path / "policy"))
    return trainer, shards, tmp_path / "policy"


def test_buckets_of_any_size_hold_the_merged_weights(run):
    trainer, _, _ = run
    whole = full_state(trainer._policy, torch.float32)
    buckets = weight_buckets(trainer._policy, torch.float32, bucket_bytes=5000)
    assert len(buckets) > 5
    parts = {name: value for bucket in buckets for name, value in bucket.full().items()}
    assert [name for bucket in buckets for name in bucket.shapes] == list(parts) == list(whole)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_a_checkpoint_has_the_adapters_alone_and_resumes_to_the_bit(run, tied_world, tiny, pictures, tmp_path):
    trainer, shards, _ = run
    state = trainer_state(trainer._policy, trainer._optimizer, 0, 0)
    names = [name for name in state if name.startswith("model.")]
    assert names
    assert all("lora_" in name or name == "model.base_sum" for name in names)
    resumed, batch = tied_world.trainer(**LORA, learning_rate=2e-2), batch_of(tied_world, pictures)
    resumed.load_checkpoint(str(shards))
    assert trainer.update(batch).metrics == resumed.update(batch).metrics
    mine, wanted = (full_state(one._policy, torch.float32) for one in (resumed, trainer))
    assert all(torch.equal(value, wanted[name]) for name, value in mine.items())
    with pytest.raises(CheckpointError, match=r"resume with .*settings of freeze and lora"):
        tied_world.trainer(**LORA | {"lora.rank": 2}).load_checkpoint(str(shards))
    with pytest.raises(CheckpointError, match=r"resume with .*settings of freeze and lora"):
        tied_world.trainer().load_checkpoint(str(shards))
    other = shutil.copytree(tied_world.folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    next(iter(weights.values())).view(torch.int32).flatten()[5] ^= 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"its adapters belong to other weights than those of model\.path"):
        TinyWorld(other).trainer(**LORA).load_checkpoint(str(shards))


def test_exports_are_the_saved_policy_and_the_adapters_in_peft_s_format(run, tied_world, tmp_path):
    _, shards, policy = run
    config = tied_world.config(**LORA)
    export_policy(str(shards), config.model, config.actor.lora, str(tmp_path / "merged"))
    files = {path.name: path.read_bytes() for path in policy.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()} == files

    export_adapter(str(shards), config.model, config.actor.lora, str(tmp_path / "adapter"))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 3, 6.0)
    assert settings["base_model_name_or_path"] == str(tied_world.folder)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    model, merged = tied_world.plain_model(), tied_world.plain_model(policy)
    assert {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors} == set(
        settings["target_modules"]
    )
    for name in settings["target_modules"]:  # what peft computes
        a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        model.get_submodule(name).weight.data += settings["lora_alpha"] / settings["r"] * b @ a
    wanted = merged.state_dict()
    assert all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in model.state_dict().items())
