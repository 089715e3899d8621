"""The update on guided groups, against the rule and the loss written out with plain transformers."""

from __future__ import annotations

from functools import partial
from statistics import fmean, stdev

import pytest
import torch

from mars.algorithms.guided_groups import guests, with_candidates, with_guests
from mars.algorithms.pooled_rewards import PooledRewards, with_advantages
from mars.batching.collate import train_batch
from mars.types import Completion, PromptRollouts, RewardResult, Rollout, RolloutGroup, RolloutRequest, Sampling
from tests.builders import altered, make_prompt
from tests.integration.actor.test_lora_trainer import LORA, SCALE
from tests.tiny_world import ADVANTAGE, GRPO, distance, gradients

SAMPLING = Sampling(1.0, 1.0, 0, 32)
KL = 0.5
# name -> (rewards and lengths of the multi rollouts, of the anchors of the first source, of those of the second)
GROUPS = {
    "a": (
        [(0.0, 5), (0.0, 3), (0.0, 7)],
        [(1.0, 4), (0.0, 6)],
        [(0.125, 8), (0.0, 2)],
    ),  # two guests, one below mean(U)
    "bb": ([(1.0, 4), (0.0, 6)], [(1.0, 3)], [(0.5, 5)]),  # one guest: 0.5 is not above 0.5
    "ccc": ([(0.5, 2), (0.25, 3)], [(0.25, 9)], [(0.0, 4)]),  # no guest
}


@pytest.fixture
def items(world, pictures):
    """The prompts with their multi and anchor rollouts, as the engine would have given them."""

    def group(name, view, images, answers):
        request = RolloutRequest(name, view, world.prompt_ids(name, images), images, len(answers), 0, SAMPLING)
        first = 0 if view is None else 10 * int(view[0][1:]) + 10
        rollouts = [
            Rollout(name, view, k, "", Completion(world.response(length, seed=1000 * len(name) + first + k),
                    (-1.0,) * length, "stop"), RewardResult(reward, reward, {}))
            for k, (reward, length) in enumerate(answers)
        ]  # fmt: skip
        return RolloutGroup(request, tuple(rollouts))

    found = []
    for name, (multi, *anchors) in GROUPS.items():
        images = tuple(pictures[:2])
        groups = (group(name, (f"s{i}",), images[i : i + 1], some) for i, some in enumerate(anchors))
        found.append(PromptRollouts(make_prompt(name, images), group(name, None, images, multi), tuple(groups)))
    return found


def batch_of(world, items, packing, per_update=3):
    guided = with_guests(with_candidates(items), lambda *given: True).rollouts
    assert [len(guests(item)) for item in guided] == [2, 1, 0]
    kept = with_advantages(guided, PooledRewards.of_rollouts(guided).advantages(ADVANTAGE))
    length = partial(expanded, world)
    settings = {"prompts_per_update": per_update, "num_ranks": 1, "tokens_per_forward": 600, "packing": packing}
    return train_batch(kept, prompt_length=length, **settings)


def expanded(world, request):
    return len(world.processor.process(request.prompt_token_ids, request.images).input_ids)


def written_out(items):
    """name -> [(ids, advantage, whether it is a guest)]: the rule of docs/method.md, in plain Python."""
    found = {}
    for item in items:
        multi = [(r.completion.token_ids, r.reward.score) for r in item.multi.rollouts]
        mean = fmean(reward for _, reward in multi)
        anchors = [(r.completion.token_ids, r.reward.score) for group in item.anchors for r in group.rollouts]
        chosen = [one for one in anchors if one[1] > mean]
        pool = [reward for _, reward in multi + chosen]
        found[item.prompt.prompt_id] = [
            (ids, (reward - fmean(pool)) / (stdev(pool) + 1e-6), k >= len(multi))
            for k, (ids, reward) in enumerate(multi + chosen)
        ]
    return found


def plain_gradient(world, model, reference, old, rows, images):
    """rows: (name, ids, advantage, is guest). Clipped ratio to `old`, k3 to `reference` for multi rollouts alone, mean
    over all tokens."""
    num_tokens, loss = sum(len(ids) for _, ids, _, _ in rows), 0.0
    for name, ids, advantage, is_guest in rows:
        logprobs = world.plain_logprobs(model, name, images, ids)  # after the multi prompt, for guests too
        ratio = (logprobs - old[ids]).exp()
        loss -= torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / num_tokens
        if not is_guest:
            with torch.no_grad():
                gap = world.plain_logprobs(reference, name, images, ids) - logprobs.detach()
            gap = gap + logprobs.detach() - logprobs
            loss += KL * (gap.exp() - 1 - gap).sum() / num_tokens
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def old_logprobs(world, model, rules, images):
    with torch.no_grad():
        return {
            ids: world.plain_logprobs(model, name, images, ids) for name, rows in rules.items() for ids, _, _ in rows
        }


@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_updates_follow_the_rule_written_out(world, items, pictures, packing):
    """Two updates: of "a", then of "bb" and "ccc", whose ratio is no longer 1."""
    images, rules = pictures[:2], written_out(items)
    batch = batch_of(world, items, packing, per_update=1)
    trainer = world.trainer(objective=altered(GRPO, kl_coefficient=KL), learning_rate=3e-3, packing=packing)
    mine = gradients(trainer, batch)
    model, reference = world.plain_model(), world.plain_model()
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    old = old_logprobs(world, model, rules, images)
    assert min(advantage for _, advantage, is_guest in rules["a"] if is_guest) < 0
    for number, name in enumerate(rules):
        rows = [(name, *row) for row in rules[name]]
        wanted = plain_gradient(world, model, reference, old, rows, images)
        assert distance(mine[number], wanted) < (1e-5 if number == 0 else 5e-3)  # AdamW enlarges rounding near 0
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()


@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_the_gradient_of_one_update_and_the_guests_log_prob(world, items, pictures, packing):
    images, rules = pictures[:2], written_out(items)
    trainer = world.trainer(objective=altered(GRPO, kl_coefficient=KL), packing=packing)
    found, update = [], trainer.update
    trainer.update = lambda batch: found.append(update(batch))
    (mine,) = gradients(trainer, batch_of(world, items, packing))
    model = world.plain_model()
    old = old_logprobs(world, model, rules, images)
    rows = [(name, *row) for name, some in rules.items() for row in some]
    assert distance(mine, plain_gradient(world, model, model, old, rows, images)) < 1e-5
    tokens = torch.cat([old[ids] for _, ids, _, is_guest in rows if is_guest])
    metrics = found[0].metrics
    assert metrics["mars/guide/logprob"] == pytest.approx(float(tokens.mean()), abs=1e-5)
    fresh = torch.cat([old[ids] for _, ids, _, is_guest in rows if not is_guest])  # engine: -1 for each token
    assert metrics["rollout/logprob_diff_mean"] == pytest.approx(float((fresh + 1).abs().mean()), abs=1e-5)


@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_lora_gradients_are_those_of_the_merged_weights(world, items, pictures, packing, tmp_path):
    """W' = W + s B A, so dA = s B^T dW' and dB = s dW' A^T, with dW' of plain transformers. The loss has no KL, whose
    reference would be the model without adapters."""
    images, rules, batch = pictures[:2], written_out(items), batch_of(world, items, packing)
    trainer = world.trainer(**LORA | {"learning_rate": 2e-2, "packing": packing})
    trainer.update(batch)  # adapters are no longer 0
    trainer.save(str(tmp_path / "policy"))
    adapters = {name.removeprefix("backbone."): p.full_tensor() for name, p in trainer._policy.named_parameters()}
    adapters = {name: value.detach().clone() for name, value in adapters.items() if "lora_" in name}
    (mine,) = gradients(trainer, batch)
    model = world.plain_model(tmp_path / "policy")
    old = old_logprobs(world, model, rules, images)
    rows = [(name, *row[:2], True) for name, some in rules.items() for row in some]  # no KL term for any
    whole = plain_gradient(world, model, model, old, rows, images)
    wanted = {}
    for name in (name.removesuffix(".lora_A") for name in adapters if name.endswith("lora_A")):
        wanted[f"{name}.lora_A"] = SCALE * adapters[f"{name}.lora_B"].T @ whole[f"{name}.weight"]
        wanted[f"{name}.lora_B"] = SCALE * whole[f"{name}.weight"] @ adapters[f"{name}.lora_A"].T
    assert distance(mine, wanted) < 1e-4
