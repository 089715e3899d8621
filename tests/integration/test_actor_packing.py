"""The trainer with packs and with rows: the same log-probs, updates, gradients and KL."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch

from mars.algorithms.scoring import KL_TO_REFERENCE
from tests.builders import altered
from tests.tiny_world import GRPO, at_temperature, distance, gradients, response_logprobs, with_algorithm

PACKINGS = ("shared_prefix", "padded")
WITH_KL = altered(GRPO, kl_coefficient=0.3, entropy_coefficient=0.02)


def prompts(world, pictures):
    return [
        world.train_prompt("a", pictures[:2], [5, 9, 2, 14], anchors=[0.5, 2.0]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[1]], [4, 12, 6], rewards=[0.0, 1.0, 0.25]),
        world.train_prompt("c", [pictures[2], pictures[0]], [3, 1, 1], rewards=[1.0, 0.0, 0.0]),
    ]


def with_packing(world, items, packing, per_update, tokens_per_forward, **changes):
    batch = world.batch(items, per_update=per_update, tokens_per_forward=tokens_per_forward, packing=packing)
    return world.trainer(packing=packing, **changes), batch


def objective(world, **changes):
    return altered(WITH_KL, kl_reference=str(world.folder), **changes)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("family", "budget"), [("world", 100_000), ("world", 70), ("qwen3_world", 160)])
def test_updates_are_those_of_rows(family, budget, checkpointing, pictures, request):
    """Budget 70 splits the group of four answers over packs."""
    world = request.getfixturevalue(family)
    items, found = at_temperature(prompts(world, pictures), 0.7), {}
    for packing in PACKINGS:
        trainer, batch = with_packing(
            world, items, packing, 4, budget,
            objective=objective(world), gradient_checkpointing=checkpointing, temperature=0.7,
        )  # fmt: skip
        metrics, finish = {}, trainer._finish

        def recorded(*given, finish=finish, metrics=metrics):
            update = finish(*given)
            metrics |= update.metrics
            return update

        trainer._finish = recorded
        found[packing] = gradients(trainer, batch)[0], metrics, len(batch.updates[0].ranks[0])
    (mine, my_metrics, packs), (wanted, metrics, rows) = found.values()
    assert packs <= rows
    assert distance(mine, wanted) <= 5e-6
    assert my_metrics.keys() == metrics.keys()
    for key, value in metrics.items():
        assert my_metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_a_group_over_the_budget_is_split(world, pictures):
    items = prompts(world, pictures)
    plan = world.batch(items, tokens_per_forward=70).updates[0]
    homes = [{p for p, _ in micro.rows[: len(micro.rows) - micro.num_fillers]} for micro in plan.ranks[0]]
    assert sum(0 in home for home in homes) > 1


@pytest.mark.parametrize("per_update", [1, 2, 4])
def test_the_old_pass_is_over_all_updates_but_the_first(world, qwen3_world, pictures, per_update):
    """The first takes its own forward, so that its ratio is 1 on any device; others the very bits of before."""
    for one in (world, qwen3_world):
        trainer, batch = with_packing(one, prompts(one, pictures), "shared_prefix", per_update, 70)
        before = trainer._old_logprobs(batch, batch.updates, trainer._reader.start(batch, batch.updates, rank=0))
        forwards, seen, loss = [], [], trainer._objective.loss
        trainer._policy.register_forward_pre_hook(lambda *_, on=forwards: on.append(torch.is_grad_enabled()))
        trainer._objective.loss = lambda logprobs, entropy, old, *rest, seen=seen, loss=loss: (
            seen.append((logprobs.detach(), old)) or loss(logprobs, entropy, old, *rest)
        )
        trainer.update(batch)
        updates = [list(plan.ranks[0]) for plan in batch.updates]
        assert len(updates) == 4 // per_update
        assert forwards == [False] * sum(map(len, updates[1:])) + [True] * sum(map(len, updates))
        first, later = seen[: len(updates[0])], seen[len(updates[0]) :]
        assert all(old is None for _, old in first)
        # A pass without gradients gives the bits of the update's forward.
        assert all(torch.equal(logprobs, before[m]) for (logprobs, _), m in zip(first, updates[0], strict=True))
        assert all(torch.equal(old, before[m]) for (_, old), m in zip(later, chain(*updates[1:]), strict=True))
        assert not any(torch.equal(logprobs, old) for logprobs, old in later)


def test_log_probs_alone_are_those_in_packs(world, pictures):
    trainer, batch = with_packing(world, prompts(world, pictures), "shared_prefix", 4, 100_000)
    (micro,) = batch.updates[0].ranks[0]
    packed = trainer._old_logprobs(batch, batch.updates, trainer._reader.start(batch, batch.updates, rank=0))[micro]
    place = {row: i for i, row in enumerate(batch.updates[0].rows)}
    alone = response_logprobs(trainer, batch.prompts)
    in_order = torch.cat([torch.tensor(alone[place[row]]) for row in micro.rows])
    torch.testing.assert_close(packed, in_order, atol=1e-5, rtol=0)


def test_kl_to_the_reference_is_that_of_rows(world, qwen3_world, pictures):
    for one in (world, qwen3_world):
        kl = {}
        for packing in PACKINGS:
            trainer, batch = with_packing(
                one, prompts(one, pictures), packing, 100, 160, objective=objective(one), learning_rate=3e-3
            )
            trainer.update(one.batch(prompts(one, pictures)[:1], packing=packing))
            kl[packing] = [
                value for values in trainer.score_responses(batch, KL_TO_REFERENCE).values for value in values
            ]
        assert min(map(abs, kl["padded"])) > 1e-6
        assert kl["shared_prefix"] == pytest.approx(kl["padded"], rel=2e-3, abs=1e-5)


def test_each_image_once_per_pack_and_each_prompt_token_once(world, pictures):
    items = prompts(world, pictures)
    trainer, batch = with_packing(world, items, "shared_prefix", 4, 100_000)
    images, tokens = [], []
    backbone = trainer._policy.backbone.model
    backbone.visual.register_forward_pre_hook(
        lambda module, args, kwargs: images.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    backbone.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    trainer.update(batch)
    assert images == [3]
    assert tokens == [sum(p.num_prompt_tokens + sum(len(r.token_ids) for r in p.responses) for p in items)]


def test_bfloat16_packs_are_as_near_to_float32_as_rows_are(world, pictures):
    exact, *rounded = (
        with_packing(world, prompts(world, pictures), packing, 4, 200, dtype=dtype)
        for packing, dtype in (("padded", "float32"), ("padded", "bfloat16"), ("shared_prefix", "bfloat16"))
    )
    wanted = gradients(*exact)[0]
    padded, shared = (distance(gradients(*pair)[0], wanted) for pair in rounded)
    assert 0 < shared < 2 * padded


# --- weights


def with_objective(trainer, **changes):
    return with_algorithm(trainer, altered(trainer._config.algorithm, **changes))


@pytest.mark.parametrize("packing", PACKINGS)
def test_weight_half_halves_the_gradient_of_the_parameters(world, packing):
    """To the bit, of a response alone; of one among others its part, and the parts of the others stay."""
    alone, group = world.train_prompt("text", [], [7]), world.train_prompt("t", [], [4, 12, 6])
    alone = replace(alone, responses=(replace(alone.responses[0], advantage=-0.75, weight=1.0),))
    trainer, _ = with_packing(world, [alone], packing, 4, 70, learning_rate=1e-30)

    def gradient(prompt, **changes):
        responses = (replace(prompt.responses[0], **changes), *prompt.responses[1:])
        return gradients(trainer, world.batch([replace(prompt, responses=responses)], packing=packing))[0]

    for kind in ("clip", "gspo", "cispo"):
        for reduction in ("token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"):
            changes = {"loss": kind, "reduction": reduction, "reduction_tokens": 8}
            with_objective(trainer, entropy_coefficient=0.1, **changes)
            whole, half = (gradient(alone, weight=weight) for weight in (1.0, 0.5))
            assert all(torch.equal(half[name], 0.5 * value) for name, value in whole.items())
            # A response of advantage 0 adds nothing to the policy loss: the mean of all and nothing is half.
            with_objective(trainer, entropy_coefficient=0.0, **changes)
            whole, nothing, half = (gradient(group, **given) for given in ({}, {"advantage": 0.0}, {"weight": 0.5}))
            mean = {name: (value + nothing[name]) / 2 for name, value in whole.items()}
            assert distance(half, mean) < 2e-6
            assert distance(half, whole) > 0.01


@pytest.mark.parametrize("packing", PACKINGS)
def test_weight_0_gives_the_update_of_the_batch_without_the_response(world, pictures, packing):
    items = prompts(world, pictures)[1:3]
    first, *others = items[1].responses
    lighter = replace(items[1], responses=(replace(first, weight=0.0), *others))
    trainer, _ = with_packing(world, items, packing, 4, 70, objective=objective(world), learning_rate=1e-30)
    for reduction in ("token_mean", "seq_mean_token_mean"):
        with_objective(trainer, reduction=reduction)
        mine, without, with_it = (
            gradients(trainer, world.batch([prompt, items[0]], packing=packing))[0]
            for prompt in (lighter, replace(items[1], responses=tuple(others)), items[1])
        )
        assert distance(mine, without) < 2e-6
        assert distance(mine, with_it) > 0.01
