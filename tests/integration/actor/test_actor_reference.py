"""The reference model: which one is loaded, which are refused, and the KL to it that goes into rewards."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from mars.actor import reference
from mars.actor.reference import check_reference
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.data.synthetic.tiny_model import build_tiny
from mars.errors import ConfigError, SetupError
from mars.train_types import MicroBatch, TrainBatch, UpdatePlan
from tests.builders import altered
from tests.fakes.trainer import RecordingTrainer
from tests.tiny_world import GRPO, at_temperature

IN_REWARD = altered(GRPO, kl_coefficient=0.1, kl_placement="reward")
ESTIMATES = {"k1": lambda d: d, "abs": abs, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(-d) - 1 + d}


@pytest.fixture(scope="module")
def other(tmp_path_factory, one_thread):
    """Another model for the same tokens and pictures; its embeddings are tied, the policy's are not."""
    return build_tiny(tmp_path_factory.mktemp("reference") / "model", seed=41, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def batch(world, pictures):
    """Multi and mono views of one prompt, as prompts of their own, and one without pictures."""
    prompts = [
        world.train_prompt("a", pictures[:2], [5, 9, 1]),
        world.train_prompt("a", pictures[:1], [4]),
        world.train_prompt("a", pictures[1:2], [6]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[2]], [11, 2]),
    ]
    return world.batch(prompts, per_update=100, tokens_per_forward=100)


def plain_kl(world, model, ref_model, batch, estimator, temperature):
    with torch.no_grad():
        mine, theirs = (world.plain_batch_logprobs(m, batch, temperature) for m in (model, ref_model))
    sums = iter(
        sum(ESTIMATES[estimator](a - b) for a, b in zip(x.tolist(), y.tolist(), strict=True))
        for x, y in zip(mine, theirs, strict=True)
    )
    return [[next(sums) for _ in prompt.responses] for prompt in batch.prompts]


@pytest.mark.parametrize("estimator", ESTIMATES)
def test_kl_of_every_response_against_plain_transformers(world, batch, other, estimator):
    objective = altered(IN_REWARD, kl_estimator=estimator, kl_reference=str(other))
    batch = replace(batch, prompts=tuple(at_temperature(batch.prompts, 0.7)))
    trainer = world.trainer(objective=objective, temperature=0.7, logprob_chunk_tokens=7)
    (rank,) = batch.updates[0].ranks
    filled = UpdatePlan((tuple(MicroBatch((*m.rows, (0, 1), (3, 0)), m.num_fillers + 2) for m in rank),))
    found = trainer.score_responses(replace(batch, updates=(filled,)), KL_TO_REFERENCE).values
    wanted = plain_kl(world, world.plain_model(), world.plain_model(other), batch, estimator, 0.7)
    assert [len(row) for row in found] == [3, 1, 1, 2, 2]
    for row, expected in zip(found, wanted, strict=True):
        assert list(row) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_kl_is_that_of_the_current_policy_to_a_model_that_stays(world, batch):
    """To the model that the run started from, if no other is named: 0 at first."""
    trainer = world.trainer(objective=IN_REWARD, learning_rate=3e-3)
    assert all(abs(x) < 1e-9 for row in trainer.score_responses(batch, KL_TO_REFERENCE).values for x in row)
    trainer.update(batch)
    moved = trainer.score_responses(batch, KL_TO_REFERENCE).values
    assert all(x > 1e-6 for row in moved for x in row)
    assert trainer.score_responses(batch, KL_TO_REFERENCE).values == moved
    policy = world.plain_model()
    policy.load_state_dict(trainer.publish_weights().payload)
    wanted = plain_kl(world, policy, world.plain_model(), batch, "k3", 1.0)
    for row, expected in zip(moved, wanted, strict=True):
        assert list(row) == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_the_kl_does_not_depend_on_how_the_work_is_cut(world, batch, other):
    trainer = world.trainer(objective=altered(IN_REWARD, kl_reference=str(other)))
    first, *others = (
        trainer.score_responses(world.batch(batch.prompts, tokens_per_forward=tokens), KL_TO_REFERENCE).values
        for tokens in (300, 1, 10_000)
    )
    for one in others:
        for row, expected in zip(one, first, strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_plan_that_lacks_a_row_is_refused(world, batch):
    trainer = world.trainer(objective=IN_REWARD)
    (rank,) = batch.updates[0].ranks
    with pytest.raises(ValueError, match="every row exactly once"):
        trainer.score_responses(replace(batch, updates=(UpdatePlan((rank[1:],)),)), KL_TO_REFERENCE)
    with pytest.raises(ValueError, match="every row exactly once"):
        trainer.score_responses(replace(batch, updates=batch.updates * 2), KL_TO_REFERENCE)
    assert trainer.score_responses(TrainBatch((), ()), KL_TO_REFERENCE).values == []


def test_without_a_reference_there_is_no_kl(world, batch):
    with pytest.raises(ConfigError, match=r"algorithm\.kl_coefficient: no reference.*got 0\.0; give"):
        world.trainer().score_responses(batch, KL_TO_REFERENCE)


@pytest.mark.parametrize(
    ("coefficient", "placement", "loads"), [(0.0, "loss", 0), (0.1, "loss", 1), (0.1, "reward", 1)]
)
def test_the_reference_is_loaded_once_and_scores_updates_only_for_the_loss(
    world, batch, other, monkeypatch, coefficient, placement, loads
):
    loaded, load = [], reference.empty_policy
    monkeypatch.setattr(
        reference, "empty_policy", lambda s, *rest, **named: loaded.append(s.path) or load(s, *rest, **named)
    )
    objective = altered(GRPO, kl_coefficient=coefficient, kl_placement=placement, kl_reference=str(other))
    trainer, forwards = world.trainer(objective=objective), []
    assert loaded == [str(other)] * loads
    if loads:
        trainer._reference.register_forward_hook(lambda *_: forwards.append(1))
        assert not any(parameter.requires_grad for parameter in trainer._reference.parameters())
    metrics = trainer.update(batch).metrics
    in_loss = placement == "loss" and coefficient > 0
    assert bool(forwards) == in_loss
    assert (metrics["actor/kl_loss"] > 0.01) == in_loss
    assert metrics.get("actor/kl_coef") == (0.1 if in_loss else None)


# --- which models are refused


def changed(folder, target, **changes):
    """A copy of a model folder with other values in its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (config[part] if part else config)[name] = value
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__vocab_size": 704}, r"its vocab_size is 704, the policy's is \d+"),
        ({"image_token_id": 3}, "its image_token_id is 3"),
        ({"vision_config__patch_size": 16, "vision_config__spatial_merge_size": 1},
         r"patch_size is 16, the policy's is 14, its vision_config.spatial_merge_size is 1"),
        ({"model_type": "qwen2"}, "its model_type is qwen2, the policy's is qwen2_5_vl"),
        ({"model_type": "unheard_of"}, "unheard_of"),
    ],
)  # fmt: skip
def test_a_reference_that_reads_ids_or_pictures_otherwise_is_refused(tiny, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=r"^algorithm\.kl_reference: ") as raised:
        check_reference(str(changed(tiny, tmp_path / "x", **changes)), str(tiny), trust_remote_code=False)
    assert raised.match(message)
    assert raised.match(f"got {tmp_path / 'x'}")


def test_a_reference_with_other_words_is_refused(tiny, tmp_path):
    """The same number of ids, of which two have changed places; more words than the policy's do no harm."""
    folder = changed(tiny, tmp_path / "x")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    one, two = [word for word, i in words.items() if i in (40, 41)]
    words[one], words[two] = words[two], words[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"algorithm\.kl_reference: its tokenizer is missing, or lacks tokens"):
        check_reference(str(folder), str(tiny), trust_remote_code=False)
    check_reference(str(changed(tiny, tmp_path / "same")), str(tiny), trust_remote_code=False)


def test_a_trainer_refuses_too_and_names_the_key(world, tiny_qwen3, tmp_path):
    with pytest.raises(ConfigError, match=r"algorithm\.kl_reference: its model_type is qwen3_vl"):
        world.trainer(objective=altered(IN_REWARD, kl_reference=str(tiny_qwen3)))
    with pytest.raises(SetupError, match=r"algorithm\.kl_reference: .*nowhere"):
        world.trainer(objective=altered(IN_REWARD, kl_reference=str(tmp_path / "nowhere")))
    bare = changed(world.folder, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(SetupError, match=r"algorithm\.kl_reference: the model cannot be loaded"):
        world.trainer(objective=altered(IN_REWARD, kl_reference=str(bare)))


def test_the_recording_trainer_gives_the_kl_it_was_told(world, batch):
    trainer = RecordingTrainer()
    trainer.kl_per_token["a"] = 0.5
    assert trainer.score_responses(batch, KL_TO_REFERENCE).values == [(2.5, 4.5, 0.5), (2.0,), (3.0,), (0, 0), (0, 0)]
    assert trainer.scored == [batch]
