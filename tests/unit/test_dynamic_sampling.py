"""Rounds of dynamic sampling, carrying, trimming, penalties: whatever moves, every prompt keeps its own anchors."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from mars.actor.trainer import ResponseScores
from mars.algorithms.penalties import OverlongPenalty, overlong_penalty
from mars.data.order.stream import PromptStream
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import SampledPrompt
from tests.builders import make_prompt, train_config
from tests.examples import some
from tests.fakes.fit import fit_new_run
from tests.fakes.step import IMAGE, Rounds, TableScorer, parts
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer
from tests.unit.test_step import expected_advantages, make_table, seen_advantages

NOTHING = SamplingState(0, ())


@pytest.fixture
def new_prompts():
    def make(count):
        return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(count)]

    return make


def flat(table, names):
    """Prompts without signal: all rewards of the pool are equal."""
    return {key: 0.5 if key[0] in names else score for key, score in table.items()}


def ids(items):
    """Of `SampledPrompt`s or `PromptRollouts`."""
    return [getattr(item, "rollouts", item).prompt.prompt_id for item in items]


@pytest.mark.parametrize("seed", some(range(12), 3))
@pytest.mark.parametrize("anchor", ["mono", "all_but_one"])
def test_unique_anchors_stay_with_their_prompt_through_rounds_carrying_trimming_and_balancing(
    new_prompts, seed, anchor
):
    rng = random.Random(seed)
    prompts = new_prompts(40)
    per_step = rng.randint(2, 6)
    table = make_table(prompts, rng, anchor=anchor)  # every anchor reward is unique
    without_signal = {p.prompt_id for p in rng.sample(prompts, rng.randint(5, 25))}
    table = flat(table, without_signal)
    made = parts(
        table, anchor=anchor, selection="nonzero_advantage", num_ranks=rng.randint(1, 4),
        per_update=rng.randint(1, per_step), max_rounds=rng.randint(1, 5),
    )  # fmt: skip
    stream = PromptStream(prompts, per_step, seed, shuffle=True)
    state, trained, was_carried = NOTHING, [], 0
    for step in range(1, 7):
        before = state
        updates = len(made.trainer.batches)
        result = train_step(made, stream, state, step)
        state = result.state
        batch = made.trainer.batches[-1].prompts if len(made.trainer.batches) > updates else ()
        kept = [item.prompt_id for item in batch]
        assert kept[: len(before.carried)] == ids(before.carried)
        assert [item.carried for item in batch] == [i < len(before.carried) for i in range(len(batch))]
        assert not without_signal.intersection(kept)
        assert len(kept) == result.metrics["mars/prompts_kept"] <= per_step
        assert len(state.carried) == result.metrics["mars/prompts_carried"] < per_step
        assert result.metrics["mars/rounds"] == state.round - before.round <= made.max_rounds
        if len(kept) < per_step:
            assert state.round - before.round == made.max_rounds
            assert not state.carried
        # Nothing that has signal is lost: it is trained on now or carried.
        with_signal = [name for name in ids(result.rollouts) if name not in without_signal]
        assert [*ids(before.carried), *with_signal] == [*kept, *ids(state.carried)]
        if kept:
            seen = seen_advantages(made.trainer, number=len(made.trainer.batches) - 1)
            for prompt_id in kept:
                assert seen[prompt_id] == pytest.approx(expected_advantages(table, prompt_id), rel=1e-9)
        trained += kept
        was_carried += len(before.carried)
    assert trained


def test_rounds_go_on_until_the_step_is_full_and_the_rest_is_carried(new_prompts):
    """Of rounds 0-3, 4-7 and 8-11 the prompts 1, 4, 5, 8, 9, 10 have signal: 3 rounds make 4, and 2 are over."""
    prompts = new_prompts(16)
    signal = {"p1", "p4", "p5", "p8", "p9", "p10"}
    table = flat(make_table(prompts, random.Random(0)), {p.prompt_id for p in prompts} - signal)
    made = parts(table, selection="nonzero_advantage", max_rounds=10)
    result = train_step(made, Rounds(prompts, 4), NOTHING, 1)
    assert [p.prompt_id for p in made.trainer.batches[0].prompts] == ["p1", "p4", "p5", "p8"]
    assert ids(result.state.carried) == ["p9", "p10"]
    assert result.state.round == 3
    assert {k: v for k, v in result.metrics.items() if k in ("mars/rounds", "mars/prompts_sampled")} == {
        "mars/rounds": 3, "mars/prompts_sampled": 12,
    }  # fmt: skip
    assert made.scorer.calls == 3  # one scoring and one engine call a round, anchors with their multi rollouts
    second = train_step(made, Rounds(prompts, 4), result.state, 2)
    # p12 to p15 have none, then round 4 starts again with p1, p4 and p5, which are trained on in this step.
    assert [p.prompt_id for p in made.trainer.batches[1].prompts] == ["p9", "p10", "p1", "p4"]
    assert ids(second.state.carried) == ["p5"]


def test_what_is_trained_on_are_the_advantages_that_the_prompts_have(new_prompts):
    """A carried prompt keeps those it was given, and so does a prompt that something changed before the batch."""
    prompts = new_prompts(8)
    made = parts(make_table(prompts, random.Random(0)), selection="nonzero_advantage", max_rounds=10)
    first = train_step(made, Rounds(prompts[:7], 7), NOTHING, 1)
    assert first.state.carried == ()
    (rollouts,) = [item for item in first.rollouts if item.prompt == prompts[0]]
    older = SampledPrompt(rollouts, (9.0, 8.0, 7.0, 6.0), (1.0,) * 4, carried=True)
    collate = made.collate
    made = replace(made, collate=lambda kept: collate([kept[0], replace(kept[1], weights=(0.5, 2.0, 1.0, 0.0))]))
    train_step(made, Rounds([prompts[0], prompts[7]], 2), replace(first.state, carried=(older,)), 2)
    carried, fresh = made.trainer.batches[-1].prompts
    assert [(r.advantage, r.weight) for r in carried.responses] == [(9.0, 1.0), (8.0, 1.0), (7.0, 1.0), (6.0, 1.0)]
    assert carried.carried
    assert [r.weight for r in fresh.responses] == [0.5, 2.0, 1.0]
    assert not fresh.carried


def test_the_round_limit_trains_on_a_part_and_on_nothing_without_an_error(new_prompts):
    prompts = new_prompts(12)
    table = flat(make_table(prompts, random.Random(0)), {p.prompt_id for p in prompts} - {"p3"})
    made = parts(table, selection="nonzero_advantage", max_rounds=2)
    result = train_step(made, Rounds(prompts, 4), NOTHING, 1)
    assert [p.prompt_id for p in made.trainer.batches[0].prompts] == ["p3"]
    assert (result.metrics["mars/rounds"], result.metrics["mars/prompts_kept"]) == (2, 1)
    result = train_step(made, Rounds(prompts, 4), SamplingState(1, ()), 2)
    assert len(made.trainer.batches) == 1  # p4 to p11 have no signal: no update, no new weights
    assert len(made.engine.updates) == 1
    assert (result.metrics["mars/rounds"], result.metrics["mars/prompts_kept"]) == (2, 0)


def test_a_prompt_is_never_sampled_twice_in_a_step(new_prompts):
    prompts = new_prompts(6)
    table = flat(make_table(prompts, random.Random(1)), {"p0", "p1", "p2"})
    made = parts(table, selection="nonzero_advantage", max_rounds=4)
    result = train_step(made, Rounds(prompts, 4), NOTHING, 1)
    assert ids(result.rollouts) == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert result.metrics["mars/prompts_kept"] == 3
    assert result.metrics["mars/rounds"] == made.scorer.calls == 2  # after which there is nobody new to draw


def test_equal_multi_rewards_carry_signal_with_anchors_and_none_without(new_prompts):
    (prompt,) = [p for p in new_prompts(2) if len(p.sources) == 2]
    table = make_table([prompt], random.Random(0))
    table = {key: 0.0 if key[1] is None else score for key, score in table.items()}
    for anchor, kept in (("mono", 1), ("none", 0)):
        made = parts(table, anchor=anchor, selection="nonzero_advantage")
        assert train_step(made, Rounds([prompt], 1), NOTHING, 1).metrics["mars/prompts_kept"] == kept


class LongAnswers(TableScorer):
    """All scores are 1: only the length penalty tells responses apart."""

    def __init__(self):
        super().__init__({})

    def score(self, items):
        items = list(items)
        self.table = {(i.extra_info["name"], i.view, int(i.response)): 1.0 for i in items}
        return super().score(items)


def test_the_overlong_penalty_is_in_every_score_the_anchors_too(new_prompts):
    """Sample k has k + 2 tokens; with at most 6 and a buffer of 4: 0, -1/4, -2/4, -3/4 for the multi rollouts."""
    prompts = new_prompts(3)
    made = parts({}, scorer=LongAnswers(), overlong=OverlongPenalty(6, 4, 1.0))
    result = train_step(made, Rounds(prompts, 3), NOTHING, 1)
    for item in result.rollouts:
        assert [r.reward.score for r in item.multi.rollouts] == pytest.approx([1.0, 0.75, 0.5, 0.25])
        assert [r.reward.accuracy for r in item.multi.rollouts] == [1.0] * 4
        for group in item.anchors:
            assert [r.reward.score for r in group.rollouts] == pytest.approx([1.0, 0.75])
    assert result.metrics["reward/overlong_penalty/mean"] == pytest.approx(-0.375)
    assert result.metrics["critic/score/mean"] == pytest.approx(0.625)
    (two,) = [item for item in made.trainer.batches[0].prompts if item.prompt_id == "p1"]
    pool = np.array([1.0, 0.75, 0.5, 0.25, *[1.0, 0.75] * 2])
    expected = (np.array([1.0, 0.75, 0.5, 0.25]) - pool.mean()) / (pool.std(ddof=1) + 1e-6)
    seen = seen_advantages(made.trainer)[two.prompt_id]
    assert [seen[k] for k in range(4)] == pytest.approx(expected.tolist())
    assert overlong_penalty(np_lengths(), 6, 4, 1.0).tolist() == [0.0, -0.25, -0.5, -0.75]


def test_what_rewards_have_counted_during_the_step_is_in_its_metrics(new_prompts):
    prompts, counted = new_prompts(2), {}

    class Counting(TableScorer):
        def score(self, items):
            counted["judge/requests"] = counted.get("judge/requests", 0) + 5
            return super().score(items)

    table = make_table(prompts, random.Random(0))
    made = replace(parts(table, scorer=Counting(table)), reward_counts=lambda: dict(counted))
    for step in (1, 2):
        assert train_step(made, Rounds(prompts, 2), NOTHING, step).metrics["judge/requests"] == 5
    assert "judge/requests" not in train_step(parts(table), Rounds(prompts, 2), NOTHING, 1).metrics


def np_lengths():
    import torch

    return torch.tensor([2, 3, 4, 5])


class KlTrainer(RecordingTrainer):
    """KL of a response: a hundredth for each of its tokens and each image it saw."""

    def score_responses(self, batch, spec, spans=None):
        self.scored = batch
        return ResponseScores(
            [tuple(0.01 * len(r.token_ids) * len(p.images) for r in p.responses) for p in batch.prompts]
        )


def test_kl_in_the_reward_is_taken_off_multi_and_anchor_rewards(new_prompts):
    prompts = new_prompts(3)
    table = make_table(prompts, random.Random(0))
    table["p1", None, 2] = None  # a failed reward has no KL, and shifts nobody else's
    made = parts(table, kl_in_reward=0.5, trainer=KlTrainer())
    result = train_step(made, Rounds(prompts, 3), NOTHING, 1)
    for item in result.rollouts:
        for group in (item.multi, *item.anchors):
            for k, rollout in enumerate(group.rollouts):
                score = table[item.prompt.prompt_id, group.request.view, k]
                if score is None:
                    assert not rollout.valid
                    continue
                kl = 0.01 * (k + 2) * len(group.request.images)
                assert rollout.reward.score == pytest.approx(score - 0.5 * kl)
    plan = made.trainer.scored.updates
    assert len(plan) == 1  # every valid rollout of every view exactly once
    assert len(plan[0].rows) == sum(r.valid for i in result.rollouts for g in (i.multi, *i.anchors) for r in g.rollouts)
    multi = [r.reward for item in result.rollouts for r in item.multi.rollouts if r.valid]
    assert result.metrics["critic/rewards/mean"] == pytest.approx(np.mean([r.score for r in multi]))
    scores = [s for (_, view, _), s in table.items() if view is None and s is not None]
    assert result.metrics["critic/score/mean"] == pytest.approx(np.mean(scores))
    assert result.metrics["timing_s/ref"] >= 0


def test_anchors_have_a_cost_of_their_own_and_none_without_them(new_prompts):
    prompts = new_prompts(4)
    for anchor in ("none", "mono", "all_but_one"):
        made = parts(make_table(prompts, random.Random(0), anchor=anchor), anchor=anchor)
        result = train_step(made, Rounds(prompts, 4), NOTHING, 1)
        groups = [group for item in result.rollouts for group in item.anchors]
        tokens = sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
        assert result.metrics["anchor/tokens"] == tokens
        assert (tokens > 0) is (anchor != "none")
        attributed, generation = (
            result.metrics["perf/anchor_gen_seconds_attributed"],
            result.metrics["timing_s/gen"],
        )
        assert (attributed > 0) is (anchor != "none")
        assert attributed < generation


def test_epochs_end_the_run_by_prompts_shown_not_by_steps(new_prompts):
    """Half of the prompts have no signal, so a step takes two rounds and two epochs of 12 prompts give 3 steps."""
    prompts = new_prompts(12)
    table = flat(make_table(prompts, random.Random(0)), {f"p{i}" for i in range(0, 12, 2)})
    made = parts(table, selection="nonzero_advantage", max_rounds=2)
    tracker = RecordingTracker()
    fit_new_run(made, PromptStream(prompts, 4, 0, shuffle=False), tracker, train_config(num_epochs=2))
    assert [metrics["data/epoch"] for _, metrics in tracker.metrics] == pytest.approx([8 / 12, 16 / 12, 2.0])


@pytest.mark.parametrize(("per_step", "epochs"), [(8, [1, 2]), (7, [14 / 8, 28 / 8])])
def test_a_step_that_has_had_every_prompt_draws_no_empty_rounds(new_prompts, per_step, epochs):
    """Two of 8 prompts have no signal, so no step gets full. Empty rounds up to the limit of 10 would be ten epochs."""
    prompts = new_prompts(8)
    made = parts(
        flat(make_table(prompts, random.Random(0)), {"p0", "p1"}), selection="nonzero_advantage", max_rounds=10
    )
    tracker = RecordingTracker()
    fit_new_run(made, PromptStream(prompts, per_step, 0, shuffle=True), tracker, train_config(num_epochs=2))
    assert [metrics["data/epoch"] for _, metrics in tracker.metrics] == pytest.approx(epochs)
    assert [metrics["mars/prompts_kept"] for _, metrics in tracker.metrics] == [6, 6]
