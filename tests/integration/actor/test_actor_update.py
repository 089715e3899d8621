"""`FsdpTrainer.update` on the tiny model, against the same training written out with plain transformers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mars.actor.state import full_state
from mars.errors import NumericalError
from mars.train_types import MicroBatch, TrainBatch, UpdatePlan
from tests.builders import altered
from tests.tiny_world import GRPO, distance, gradients, response_logprobs


@pytest.fixture
def prompts(world, pictures):
    return [
        world.train_prompt("a", pictures[:2], [5, 9, 2], anchors=[0.5, 2.0]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[1]], [4, 12, 6], rewards=[0.0, 1.0, 0.25]),
        world.train_prompt("c", [pictures[2]], [3], anchors=[0.125]),
    ]


def plain_gradient(world, model, reference, old, batch, plan, kl_coefficient):
    """The loss of one update written out: clipped ratio to `old`, k3 to `reference`, mean over the update's tokens."""
    rows = plan.rows
    num_tokens = sum(len(batch.prompts[p].responses[k].token_ids) for p, k in rows)
    loss = 0.0
    for p, k in rows:
        prompt = batch.prompts[p]
        args = (prompt.prompt_id, prompt.images, prompt.responses[k].token_ids)
        logprobs, advantage = world.plain_logprobs(model, *args), prompt.responses[k].advantage
        ratio = (logprobs - old[p, k]).exp()
        loss -= torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / num_tokens
        if kl_coefficient:
            with torch.no_grad():
                gap = world.plain_logprobs(reference, *args)
            loss += kl_coefficient * ((gap - logprobs).exp() - 1 - (gap - logprobs)).sum() / num_tokens
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def plain_old_logprobs(world, model, batch):
    with torch.no_grad():
        values = iter(world.plain_batch_logprobs(model, batch))
    return {(p, k): next(values) for p, prompt in enumerate(batch.prompts) for k in range(len(prompt.responses))}


def weights(trainer):
    return {name: value.clone() for name, value in full_state(trainer._policy, torch.float32).items()}


def test_two_updates_follow_the_loss_written_out(world, prompts):
    """Old log-probs are those before the first update, and the KL is to the model that the run started from."""
    kl_coefficient = 0.5
    objective = altered(GRPO, kl_coefficient=kl_coefficient)
    trainer, batch = world.trainer(objective=objective, learning_rate=3e-3), world.batch(prompts, per_update=2)
    assert len(batch.updates) == 2
    mine = gradients(trainer, batch)

    model, reference = world.plain_model(), world.plain_model()
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    old = plain_old_logprobs(world, model, batch)
    _, first = plain_gradient(world, model, reference, old, batch, batch.updates[0], kl_coefficient)
    assert distance(mine[0], first) < 1e-5
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    _, second = plain_gradient(world, model, reference, old, batch, batch.updates[1], kl_coefficient)
    assert distance(mine[1], second) < 2e-3  # AdamW makes much of rounding where a gradient is near 0
    fresh = plain_old_logprobs(world, model, batch)
    _, wrong = plain_gradient(world, model, reference, fresh, batch, batch.updates[1], kl_coefficient)
    assert distance(mine[1], wrong) > 0.02  # what old log-probs taken after the first update would give


def test_a_first_update_has_ratio_one_and_no_kl(world, prompts):
    trainer = world.trainer(objective=altered(GRPO, kl_coefficient=0.1))
    metrics = trainer.update(world.batch(prompts)).metrics
    assert metrics["actor/kl_loss"] == pytest.approx(0, abs=1e-10)
    assert metrics["actor/ppo_kl"] == 0
    assert metrics["actor/pg_clipfrac"] == 0
    num_tokens = [len(r.token_ids) for p in prompts for r in p.responses]
    values = [r.advantage for p in prompts for r in p.responses]
    by_hand = -sum(a * n for a, n in zip(values, num_tokens, strict=True)) / sum(num_tokens)
    assert metrics["actor/pg_loss"] == pytest.approx(by_hand, abs=1e-6)
    assert trainer.update(world.batch(prompts)).metrics["actor/kl_loss"] > 1e-6  # the reference stayed


def test_the_batch_s_advantages_are_used_as_they_are(world, pictures):
    """Values that no rewards would give, of one and the same sign and far from a unit spread."""
    prompt = world.train_prompt("a", pictures[:1], [4, 6])
    given = [replace(r, advantage=a) for r, a in zip(prompt.responses, [3.0, 7.5], strict=True)]
    metrics = world.trainer().update(world.batch([replace(prompt, responses=tuple(given))])).metrics
    assert metrics["actor/pg_loss"] == pytest.approx(-(4 * 3.0 + 6 * 7.5) / 10, rel=1e-6)


def test_without_a_kl_term_no_reference_model_is_held(world):
    assert world.trainer()._reference is None


def test_the_gradient_does_not_depend_on_how_the_work_is_cut(world, prompts):
    objective = altered(GRPO, reduction="seq_mean_token_mean")
    results = {}
    for tokens_per_forward, chunk_tokens in [(100_000, 1000), (1, 1000), (400, 7), (100_000, 3)]:
        batch = world.batch(prompts, tokens_per_forward=tokens_per_forward)
        trainer = world.trainer(objective=objective, logprob_chunk_tokens=chunk_tokens)
        results[len(batch.updates[0].ranks[0]), chunk_tokens] = gradients(trainer, batch)[0]
    assert {forwards for forwards, _ in results} >= {1, 9}
    first, *others = results.values()
    for other in others:
        assert distance(other, first) < 1e-5


def test_fillers_and_masked_prompts_leave_no_trace(world, prompts, pictures):
    batch = world.batch(prompts[:3])
    wanted = gradients(world.trainer(), batch)[0]
    # A prompt with one reward has weight 0; fillers of any row, anywhere.
    lonely = world.train_prompt("lonely", pictures[3:], [9])
    extended = TrainBatch((*prompts[:3], lonely), world.batch([*prompts[:3], lonely], tokens_per_forward=300).updates)
    assert distance(gradients(world.trainer(), extended)[0], wanted) < 1e-5
    (rank,) = batch.updates[0].ranks
    padded = (MicroBatch(((0, 1), (2, 0)), 2), *(MicroBatch((*mb.rows, (0, 0)), mb.num_fillers + 1) for mb in rank))
    assert distance(gradients(world.trainer(), replace(batch, updates=(UpdatePlan((padded,)),)))[0], wanted) < 1e-5


def test_gradient_checkpointing_changes_nothing(world, qwen3_world, pictures):
    for one in (world, qwen3_world):
        batch = one.batch([one.train_prompt("a", pictures[:2], [5, 9])])
        plain, checkpointed = (
            gradients(one.trainer(gradient_checkpointing=on), batch)[0] for on in (False, True)
        )  # fmt: skip
        assert distance(checkpointed, plain) < 1e-6


def test_the_same_seed_and_batch_give_the_same_weights_to_the_bit(world, prompts):
    batch = world.batch(prompts, per_update=2)
    trainers = [world.trainer(), world.trainer()]
    stats = [trainer.update(batch) for trainer in trainers]
    assert stats[0].metrics == stats[1].metrics
    one, other = map(weights, trainers)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_raises_the_chance_of_the_rewarded_response(world, pictures):
    prompt = world.train_prompt("a", pictures[:2], [6, 6], rewards=[1.0, 0.0])
    trainer, batch = world.trainer(learning_rate=1e-3), world.batch([prompt])
    before = [sum(row) for row in response_logprobs(trainer, batch.prompts)]
    for _ in range(3):
        trainer.update(batch)
    after = [sum(row) for row in response_logprobs(trainer, batch.prompts)]
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1] - 0.1


# --- what is not finite


def not_finite(world, pictures, kind):
    """A prompt with a NaN loss; or with a finite loss whose gradient overflows."""
    values = {"loss": (math.nan, 1.0), "gradient": (1e25, -1e25)}[kind]
    prompt = world.train_prompt("bad", pictures[:1], [4, 4], rewards=[1.0, 0.0])
    responses = [replace(r, advantage=value) for r, value in zip(prompt.responses, values, strict=True)]
    return replace(prompt, responses=tuple(responses))


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(world, prompts, pictures, kind):
    trainer = world.trainer(warmup_steps=5)
    good, bad = world.batch(prompts[2:]), world.batch([not_finite(world, pictures, kind)])
    trainer.update(good)
    before, optimizer = weights(trainer), trainer._optimizer
    moments = [{k: v.clone() for k, v in state.items()} for state in optimizer._adamw.state.values()]
    result = trainer.update(bad)
    stats = result.metrics
    assert stats["fault/skipped_updates"] == 1
    assert math.isfinite(stats["actor/pg_loss"]) is (kind == "gradient")
    (skipped,) = result.skipped
    assert (skipped.update, math.isfinite(skipped.loss)) == (0, kind == "gradient")
    assert not math.isfinite(skipped.grad_norm)
    for found, wanted in zip(skipped.old_logprobs.values(), response_logprobs(trainer, bad.prompts), strict=True):
        assert found == pytest.approx(wanted)
    assert list(skipped.old_logprobs) == [(0, 0), (0, 1)]
    assert not math.isfinite(stats["actor/grad_norm"])
    after = weights(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for old, new in zip(moments, optimizer._adamw.state.values(), strict=True):
        assert all(torch.equal(old[k].to_local() if hasattr(old[k], "to_local") else old[k],
                               new[k].to_local() if hasattr(new[k], "to_local") else new[k]) for k in old)  # fmt: skip
    # The schedule waited too, and a good update goes on as if nothing had been.
    again = trainer.update(good).metrics
    assert again["actor/lr"] == pytest.approx(stats["actor/lr"])
    assert again["fault/skipped_updates"] == 0
    spared = world.trainer(warmup_steps=5)
    spared.update(good)
    spared.update(good)
    mine, theirs = weights(trainer), weights(spared)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_loss_that_is_not_finite_is_skipped_even_where_the_gradient_is(world, prompts):
    trainer = world.trainer()
    loss_of = trainer._objective.loss

    def endless(*arguments):
        loss, sums = loss_of(*arguments)
        return loss, replace(sums, loss=torch.tensor(math.inf))

    trainer._objective.loss = endless
    before = weights(trainer)
    assert trainer.update(world.batch(prompts[2:])).metrics["fault/skipped_updates"] == 1
    after = weights(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_too_many_in_a_row_end_the_run(world, prompts, pictures):
    trainer, bad = world.trainer(max_skipped_updates=1), world.batch([not_finite(world, pictures, "loss")])
    trainer.update(bad)
    trainer.update(world.batch(prompts))  # not in a row
    trainer.update(bad)
    with pytest.raises(NumericalError, match=r"2 updates in a row.*actor\.learning_rate") as raised:
        trainer.update(bad)
    assert raised.value.exit_code == 6
    assert [skipped.update for skipped in raised.value.skipped] == [0]


def test_one_bad_update_of_a_step_does_not_stop_the_others(world, prompts, pictures):
    bad = not_finite(world, pictures, "loss")
    trainer = world.trainer()
    before = weights(trainer)
    stats = trainer.update(world.batch([prompts[0], bad, prompts[1]], per_update=1))
    assert stats.metrics["fault/skipped_updates"] == 1
    assert [(one.update, list(one.old_logprobs)) for one in stats.skipped] == [(1, [(1, 0), (1, 1)])]
    assert not torch.equal(weights(trainer)["lm_head.weight"], before["lm_head.weight"])


def test_responses_without_tokens_are_no_update(world, pictures):
    prompt = world.train_prompt("a", pictures[:1], [3, 4])
    empty = replace(
        prompt, responses=tuple(replace(r, token_ids=(), rollout_logprobs=()) for r in prompt.responses)
    )  # fmt: skip
    trainer = world.trainer()
    before = weights(trainer)
    assert trainer.update(world.batch([empty])).metrics == {"fault/skipped_updates": 0.0}
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())
    half = replace(prompt, responses=(prompt.responses[0], empty.responses[1]))
    whole = gradients(world.trainer(), world.batch([half]))[0]
    assert all(torch.isfinite(value).all() for value in whole.values())


def test_warm_up_and_the_rate_of_the_last_update(world, prompts):
    trainer = world.trainer(warmup_steps=3, learning_rate=1e-3)
    batch = world.batch(prompts, per_update=2)
    rates = [trainer.update(batch).metrics["actor/lr"] for _ in range(3)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3])  # the 2nd, 4th and 6th step of 1/4, 2/4, 3/4, 1, 1, 1


# --- parity with the engine


def test_the_difference_to_the_engine_is_measured_before_the_first_update(world, pictures):
    prompt = world.train_prompt("a", pictures[:1], [4, 6])
    trainer = world.trainer()
    scored = response_logprobs(trainer, [prompt])
    shifted = [[x + 0.25 for x in scored[0]], [*scored[1][:-1], scored[1][-1] - 0.75]]
    prompt = world.train_prompt("a", pictures[:1], [4, 6], rollout_logprobs=shifted)
    metrics = trainer.update(world.batch([prompt])).metrics
    assert metrics["rollout/logprob_diff_max"] == pytest.approx(0.75, abs=1e-5)
    assert metrics["rollout/logprob_diff_mean"] == pytest.approx((4 * 0.25 + 0.75) / 10, abs=1e-5)
    # Half as much and more is what a nucleus of that size explains.
    nucleus = world.trainer(top_p=math.exp(-0.3))
    assert nucleus.update(world.batch([prompt])).metrics["rollout/logprob_diff_mean"] == pytest.approx(0.075, abs=1e-5)


def test_later_updates_are_not_compared_with_the_engine(world, pictures):
    near = world.train_prompt("a", pictures[:1], [4, 6])
    scored = response_logprobs(world.trainer(), [near])
    near = world.train_prompt("a", pictures[:1], [4, 6], rollout_logprobs=scored)
    far = world.train_prompt("b", pictures[:1], [3, 3], rollout_logprobs=[[-99.0] * 3] * 2)
    metrics = world.trainer().update(world.batch([near, far], per_update=1)).metrics
    assert metrics["rollout/logprob_diff_max"] < 1e-5


def test_carried_prompts_are_trained_on_and_never_raise_the_alarm(world, pictures):
    """They come first in a batch; compared is then the first update with a prompt of this step, by old log-probs."""
    near = world.train_prompt("a", pictures[:1], [4, 6])
    scored = response_logprobs(world.trainer(), [near])
    near = world.train_prompt("a", pictures[:1], [4, 6], rollout_logprobs=scored)
    older = replace(world.train_prompt("b", pictures[:1], [3, 3], rollout_logprobs=[[-99.0] * 3] * 2), carried=True)
    for per_update in (1, 2):
        trainer = world.trainer(learning_rate=1e-2)
        batch = world.batch([older, near], per_update=per_update)
        metrics = trainer.update(batch).metrics
        assert metrics["rollout/logprob_diff_max"] < 1e-5
        assert metrics["rollout/kl"] < 1e-9
    carried, fresh = (gradients(world.trainer(), world.batch([replace(older, carried=c), near]))[0] for c in (1, 0))
    assert distance(carried, fresh) == 0
    alone = world.trainer().update(world.batch([older])).metrics
    assert alone["actor/grad_norm"] > 0
    assert not [key for key in alone if key.startswith("rollout/")]


# --- bfloat16, and what leaves the trainer


def test_bfloat16_trains_float32_weights_and_publishes_bfloat16(world, prompts):
    trainer, exact = world.trainer(dtype="bfloat16"), world.trainer()
    batch = world.batch(prompts, per_update=2)
    rows = zip(response_logprobs(trainer, batch.prompts), response_logprobs(exact, batch.prompts), strict=True)
    difference = max(abs(a - b) for row, other in rows for a, b in zip(row, other, strict=True))
    assert 0 < difference < 0.1
    before = weights(trainer)
    metrics = trainer.update(batch).metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert {p.dtype for p in trainer._policy.parameters()} == {torch.float32}
    assert not torch.equal(before["lm_head.weight"], weights(trainer)["lm_head.weight"])
    assert {value.dtype for value in trainer.publish_weights().payload.values()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["world", "tied_world", "qwen3_world"])
def test_published_weights_are_complete_and_current(family, pictures, request):
    """Tied ones too: an engine that does not get the head would keep the old one in silence."""
    one = request.getfixturevalue(family)
    trainer, model = one.trainer(), one.plain_model()
    first = trainer.publish_weights()
    assert first.payload.keys() == model.state_dict().keys()
    assert "lm_head.weight" in first.payload
    assert all(torch.equal(value, first.payload[name]) for name, value in model.state_dict().items())
    batch = one.batch([one.train_prompt("a", pictures[:1], [4, 6])])
    trainer.update(batch)
    second = trainer.publish_weights()
    assert (first.version, second.version) == (1, 2)
    model.load_state_dict(second.payload)
    with torch.no_grad():
        for mine, plain in zip(
            response_logprobs(trainer, batch.prompts), one.plain_batch_logprobs(model, batch), strict=True
        ):  # fmt: skip
            torch.testing.assert_close(torch.tensor(mine), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["world", "tied_world", "qwen3_world"])
def test_a_saved_policy_is_a_whole_hugging_face_folder(family, pictures, request, tmp_path):
    one = request.getfixturevalue(family)
    trainer, batch = one.trainer(), one.batch([one.train_prompt("a", pictures[:2], [4, 6])])
    before = response_logprobs(trainer, batch.prompts)
    trainer.update(batch)
    trainer.save(str(tmp_path / "policy"))
    usual = tmp_path / "a new file"
    usual.touch()
    assert {path.stat().st_mode for path in (tmp_path / "policy").iterdir()} == {usual.stat().st_mode}
    model, after = one.plain_model(tmp_path / "policy"), response_logprobs(trainer, batch.prompts)
    for p, prompt in enumerate(batch.prompts):
        for k, response in enumerate(prompt.responses):
            with torch.no_grad():
                plain = one.plain_logprobs(
                    model, prompt.prompt_id, prompt.images, response.token_ids, folder=tmp_path / "policy"
                )
            torch.testing.assert_close(torch.tensor(after[p * 2 + k]), plain, atol=1e-5, rtol=0)
    assert max(abs(a - b) for a, b in zip(before[0], after[0], strict=True)) > 1e-3
    again = type(one)(tmp_path / "policy")
    assert (again.rules, again.budget) == (one.rules, one.budget)
    assert again.prompt_ids("x", pictures) == one.prompt_ids("x", pictures)
