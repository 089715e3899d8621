"""Guided groups through whole steps: what is trained, kept, carried, counted, written and read again."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mars.algorithms.anchor_use import AnchorUse
from mars.algorithms.guided_groups import GUIDE, guests
from mars.algorithms.pooled_rewards import PooledRewards, with_advantages
from mars.answers.record import answers_of
from mars.checkpoint.state import RunState, state_lines
from mars.hooks.step_hooks import Named, StepHooks
from mars.rollout.metrics import anchor_share, processed_tokens
from mars.staleness import renumbered, staleness
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import RewardResult
from tests.builders import make_prompt
from tests.fakes.engine import RecordingEngine
from tests.fakes.step import EOS, IMAGE, Rounds, TableScorer, one_step, parts
from tests.fakes.trainer import RecordingTrainer
from tests.run_states import state_from_lines
from tests.unit.test_step import make_table

NOTHING = SamplingState(0, ())


def everything(item, group, rollout):
    return True


def guided(table, allowed=everything, shuffle="off", **settings):
    return replace(parts(table, **settings), anchor_use=AnchorUse(allowed, shuffle))


def two(name="a"):
    return make_prompt(name, [IMAGE, IMAGE], extra_info={"name": name})


def scores(name, multi, s0, s1):
    """The table of rewards of one prompt with two sources."""
    groups = {None: multi, ("s0",): s0, ("s1",): s1}
    return {(name, view, k): score for view, some in groups.items() for k, score in enumerate(some)}


WRONG = scores("a", [0.0, 0.0, 0.0, 0.0], [1.0, 0.0], [0.0, 0.0])


def test_a_guest_is_trained_with_the_multi_prompt_as_off_policy_and_bounded():
    """The numbers of docs/method.md: multi rewards 0, a guest of 1."""
    made = guided(WRONG)
    result = one_step(made, [two()])
    (prompt,) = made.trainer.batches[0].prompts
    multi = result.rollouts[0].multi.request
    assert (prompt.prompt_token_ids, prompt.images) == (multi.prompt_token_ids, multi.images)
    assert [round(response.advantage, 3) for response in prompt.responses] == [-0.447] * 4 + [1.789]
    flags = [(r.off_policy, r.bounded, r.is_guest, r.weight) for r in prompt.responses]
    assert flags == [(False, False, False, 1.0)] * 4 + [(True, True, True, 1.0)]
    (guest,) = guests(result.rollouts[0])
    assert (guest.view, guest.index, guest.extra) == (("s0",), 0, GUIDE)
    assert prompt.responses[4].token_ids == guest.completion.token_ids
    assert result.metrics["mars/guide/rescued"] == result.metrics["mars/guide/frac_groups"] == 1.0
    assert result.metrics["mars/gain/mean"] == -0.25


def test_without_guests_a_step_is_that_of_plain_grpo():
    """Also where anchors have other rewards: of the two runs, only one has anchors."""
    prompts = [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(6)]
    table = make_table(prompts, random.Random(3))
    with_anchors, plain = guided(table, lambda *given: False), parts(table, anchor="none")
    first, second = one_step(with_anchors, prompts), one_step(plain, prompts)
    assert with_anchors.trainer.batches == plain.trainer.batches
    assert first.metrics["mars/guide/guests"] == 0
    assert first.metrics["mars/guide/refused"] > 0
    for key in ("critic/rewards/mean", "critic/advantages/mean", "mars/frac_zero_signal", "reward/frac_zero_std"):
        assert first.metrics[key] == second.metrics[key]


def test_costs_and_files_do_not_count_a_guest_twice():
    table = make_table([two()], random.Random(0))
    some = one_step(guided(table), [two()])
    none = one_step(parts(table), [two()])
    assert guests(some.rollouts[0])
    length = lambda request: len(request.prompt_token_ids)  # noqa: E731
    for count in (processed_tokens, anchor_share):
        assert count(some.rollouts, length) == count(none.rollouts, length)
    for key in (
        "rollout/responses",
        "rollout/tokens",
        "anchor/tokens",
        "reward/failed",
        "response_length/mean",
        "mars/gain/mean",
    ):
        assert some.metrics[key] == none.metrics[key]
    assert [key for key in some.metrics if key.startswith("extra/")] == []
    frames = lambda prompt, view: (None, None)  # noqa: E731
    lines = [answers_of(one.rollouts, 1, frames=frames, prompt_length=length) for one in (some, none)]
    assert [replace(line, guest=False) for line in lines[0]] == lines[1]
    assert sum(line.guest for line in lines[0]) == len(guests(some.rollouts[0]))


def test_a_prompt_whose_multi_rollouts_are_all_wrong_is_kept_with_its_guest_and_dropped_without():
    prompts, table = [two("a"), two("b")], WRONG | scores("b", [0.0] * 4, [0.0] * 2, [0.0] * 2)
    made = guided(table, selection="nonzero_advantage")
    assert one_step(made, prompts).metrics["mars/prompts_kept"] == 1
    made = guided(table, lambda *given: False, selection="nonzero_advantage")
    assert one_step(made, prompts).metrics["mars/prompts_kept"] == 0


def test_guests_are_carried_with_their_prompt_through_a_checkpoint():
    """Of rounds p0 to p2 and p3 to p5, p0 has no signal: the step trains on p1, p2 and p3, and carries p4 and p5."""
    prompts = [two(f"p{i}") for i in range(6)]
    table = make_table(prompts, random.Random(1))
    made = guided(
        {key: 0.5 if key[0] == "p0" else score for key, score in table.items()},
        selection="nonzero_advantage", max_rounds=3,
    )  # fmt: skip
    result = train_step(made, Rounds(prompts, 3), NOTHING, 1)
    carried = result.state.carried
    assert [item.rollouts.prompt.prompt_id for item in carried] == ["p4", "p5"]
    assert all(guests(item.rollouts) for item in carried)
    assert all(item.rollouts.pool_anchors == () for item in carried)
    assert came_back(result.state, prompts) == result.state
    # The next step trains on the same guests with the advantages that they have.
    train_step(made, Rounds(prompts, 3), result.state, 2)
    for item, prompt in zip(carried, made.trainer.batches[1].prompts, strict=False):
        assert [response.advantage for response in prompt.responses] == list(item.advantages)
        assert [response.is_guest for response in prompt.responses].count(True) == len(guests(item.rollouts))


def test_a_shuffled_pool_comes_back_from_a_checkpoint():
    prompts = [two("p0"), two("p1")]
    made = replace(parts(make_table(prompts, random.Random(4))), anchor_use=AnchorUse(None, "reward"))
    result = one_step(made, prompts)
    assert result.metrics["mars/anchors_unshuffled"] == 0
    items = (replace(item, carried=True) for item in sampled_prompts(made, result))
    state = replace(result.state, carried=tuple(items))
    assert all(item.rollouts.pool_anchors != item.rollouts.anchors for item in state.carried)
    assert came_back(state, prompts) == state


def came_back(state, prompts):
    """The state from a checkpoint, with the versions of weights that it had."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    back = state_from_lines(state_lines(RunState(1, state, {}, logged=True)), by_id).sampling
    return renumbered(back, state.version)


def sampled_prompts(made, result):
    rewards = PooledRewards.of_rollouts(result.rollouts)
    return with_advantages(result.rollouts, rewards.advantages(made.advantage))


def test_a_guest_counts_once_in_staleness():
    made = guided(WRONG)
    result = one_step(made, [two()])
    (item,) = sampled_prompts(made, result)
    assert staleness(item, 3) == [3] * 5


def test_the_kl_in_the_reward_of_a_guest_is_that_of_the_multi_prompt():
    class Trainer(RecordingTrainer):
        """0.1 nats for each token after a prompt of one image, 0.01 after one of two."""

        def score_responses(self, batch, spec, spans=None):
            scores = super().score_responses(batch, spec, spans)
            return replace(scores, values=[
                tuple((0.1 if len(prompt.images) == 1 else 0.01) * len(r.token_ids) for r in prompt.responses)
                for prompt in batch.prompts
            ])  # fmt: skip

    made = guided(WRONG, kl_in_reward=1.0, trainer=Trainer())
    result = one_step(made, [two()])
    (item,) = result.rollouts
    guest, *_ = guests(item)
    tokens = len(guest.completion.token_ids)
    assert guest.reward.score == pytest.approx(1.0 - 0.01 * tokens)
    assert item.anchors[0].rollouts[0].reward.score == pytest.approx(1.0 - 0.1 * tokens)  # for mars/anchor/s0/mean
    pool = [r.reward.score for r in item.trained]
    mean = sum(pool) / len(pool)
    std = (sum((x - mean) ** 2 for x in pool) / (len(pool) - 1)) ** 0.5
    seen = [response.advantage for response in made.trainer.batches[0].prompts[0].responses]
    assert seen == pytest.approx([(x - mean) / (std + 1e-6) for x in pool])


def test_masked_responses_leave_their_guest_to_be_trained():
    """All multi responses are cut: they have weight 0, and the guest is trained alone."""

    def cut(request, k):
        return (*(5,) * (k + 1), *(() if request.view is None else (EOS,)))

    made = replace(guided(scores("a", [0.0] * 4, [1.0, 1.0], [0.0, 0.0]), mask_truncated=True), engine=engine(cut))
    result = one_step(made, [two()])
    responses = made.trainer.batches[0].prompts[0].responses
    assert [response.is_guest for response in responses] == [True, True]
    assert result.metrics["mars/prompts_kept"] == 1


def engine(script):
    return RecordingEngine(script, [EOS])


def test_parts_are_normalised_over_the_same_pool():
    """Guests are chosen by the score, then each part is normalised over the multi rollouts and the guests."""

    class Scorer(TableScorer):
        def _score(self, item):
            result = super()._score(item)
            return RewardResult(
                result.score, result.accuracy, {"right": result.score, "form": float(item.view is None)}
            )

    made = guided(WRONG, part_weights={"right": 1.0, "form": 0.5}, scorer=Scorer(WRONG))
    one_step(made, [two()])
    responses = made.trainer.batches[0].prompts[0].responses
    right, form = 0.2 / 0.2**0.5, -0.5 * 0.2 / 0.2**0.5  # of a multi rollout: -(right) and +(form)
    raw = [-right - form] * 4 + [4 * right + 4 * form]
    spread = (sum(a * a for a in raw) / 4) ** 0.5
    assert [r.advantage for r in responses] == pytest.approx([a / spread for a in raw], rel=1e-4)


def test_a_rule_sees_guests_and_the_statistics_of_their_pool():
    seen = []

    class Rule:
        def __call__(self, base, kept, facts):
            seen.append((base.mean.tolist(), [len(item.trained) for item in kept], len(base.values)))
            return replace(base, values=2 * base.values)

        def state(self):
            return {}

        def restore(self, state):
            pass

    made = replace(guided(WRONG), hooks=StepHooks(1, 0, advantage=(Named("own:Rule", Rule(), None),)))
    one_step(made, [two()])
    assert seen == [([0.2], [5], 5)]
    responses = made.trainer.batches[0].prompts[0].responses
    assert responses[4].advantage == pytest.approx(3.577, abs=1e-3)


def test_shuffling_follows_the_round_of_dynamic_sampling():
    """Two rounds of two prompts; the third round has one prompt, which gets no anchors and is counted."""
    prompts = [two(f"p{i}") for i in range(5)]
    table = dict.fromkeys(make_table(prompts, random.Random(0)), 0.0)
    made = guided(table, shuffle="both", selection="nonzero_advantage", max_rounds=3)
    result = train_step(made, Rounds(prompts, 2), NOTHING, 1)
    assert result.metrics["mars/rounds"] == 3
    assert result.metrics["mars/anchors_unshuffled"] == 1.0
