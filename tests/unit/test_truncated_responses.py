"""algorithm.truncated_responses=mask: responses cut at the token limit count in the pool and are not trained on."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from mars.algorithms.penalties import OverlongPenalty
from mars.step import train_step
from mars.step_parts import SamplingState
from tests.builders import make_prompt
from tests.fakes.engine import RecordingEngine
from tests.fakes.step import EOS, IMAGE, Rounds, one_step, parts, script
from tests.unit.test_step import expected_advantages, make_table, seen_advantages


def cut(made, samples):
    """The same parts with an engine that cuts the given (prompt_id, view, k) before their end of sequence."""

    def cut_script(request, k):
        whole = script(request, k)
        return whole[:-1] if (request.prompt_id, request.view, k) in samples else whole

    return replace(made, engine=RecordingEngine(cut_script, [EOS]))


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(4)]


def rewards_of(prompts, multi, anchors):
    """The rewards of every prompt: `multi` by sample, `anchors` by view, one sample of each."""
    table = {(p.prompt_id, None, k): r for p in prompts for k, r in enumerate(multi)}
    return table | {(p.prompt_id, (f"s{i}",), 0): r for p in prompts for i, r in enumerate(anchors)}


def test_a_cut_response_counts_in_the_pool_and_is_not_trained_on(prompts):
    """Pool 1, 0, 1 (cut), anchors 0 and 0.5: mean 0.5, sum of squares 1, std 0.5: advantages +1 and -1."""
    table = rewards_of(prompts[:1], [1.0, 0.0, 1.0], [0.0, 0.5])
    made = cut(parts(table, samples=3, anchor_samples=1, mask_truncated=True), {("p0", None, 2)})
    result = one_step(made, prompts[:1])
    assert seen_advantages(made.trainer) == {"p0": {0: pytest.approx(1, abs=1e-5), 1: pytest.approx(-1, abs=1e-5)}}
    assert result.metrics["mars/responses_masked"] == 1
    assert result.metrics["critic/rewards/mean"] == pytest.approx(2 / 3)  # what is measured counts it
    assert result.metrics["critic/advantages/mean"] == pytest.approx(0, abs=1e-9)  # over what is trained on
    assert result.metrics["mars/gain/mean"] == pytest.approx(2 / 3 - 0.25)


def test_score_trains_on_it(prompts):
    table = make_table(prompts, random.Random(0))
    made = cut(parts(table), {("p0", None, 2), ("p1", ("s0",), 0)})
    result = one_step(made, prompts)
    assert all(len(seen) == 4 for seen in seen_advantages(made.trainer).values())
    assert "mars/responses_masked" not in result.metrics


def test_the_others_keep_their_advantages_and_cut_anchors_are_anchors(prompts):
    table = make_table(prompts, random.Random(1))
    masked = {("p0", None, 2), ("p0", None, 0), ("p2", None, 3)}
    made = cut(parts(table, mask_truncated=True), masked | {("p1", ("s0",), 0), ("p1", ("s1",), 1)})
    result = one_step(made, prompts)
    seen = seen_advantages(made.trainer)
    for prompt in prompts:
        wanted = expected_advantages(table, prompt.prompt_id)
        kept = {k: a for k, a in wanted.items() if (prompt.prompt_id, None, k) not in masked}
        assert seen[prompt.prompt_id] == pytest.approx(kept, rel=1e-9)
    assert result.metrics["mars/responses_masked"] == 3
    assert result.metrics["mars/prompts_kept"] == 4


def test_a_failed_reward_is_not_counted_as_masked(prompts):
    table = rewards_of(prompts[:1], [1.0, 0.0, None], [0.0])
    made = cut(parts(table, samples=3, anchor_samples=1, anchor="none", mask_truncated=True), {("p0", None, 2)})
    assert one_step(made, prompts[:1]).metrics["mars/responses_masked"] == 0


@pytest.mark.parametrize("mask", [False, True])
def test_a_prompt_whose_signal_is_all_in_cut_responses_is_dropped_by_dynamic_sampling(prompts, mask):
    """Rewards 0.5, 0.5 and, cut, 1 and 0: the others are at the mean of the pool."""
    table = rewards_of(prompts[:1], [0.5, 0.5, 1.0, 0.0], [])
    made = parts(table, anchor="none", selection="nonzero_advantage", mask_truncated=mask)
    made = cut(made, {("p0", None, 2), ("p0", None, 3)})
    metrics = one_step(made, prompts[:1]).metrics
    assert metrics["mars/prompts_kept"] == (not mask)
    assert (metrics["mars/frac_zero_signal"], metrics["mars/frac_undefined"]) == (float(mask), 0)
    everything = replace(made, selection="all", engine=made.engine)
    assert one_step(everything, prompts[:1]).metrics["mars/prompts_kept"] == 1  # two responses, with advantage 0


@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
def test_a_prompt_whose_every_response_is_cut_is_not_kept(prompts, selection):
    table = make_table(prompts, random.Random(2))
    all_of_p1 = {("p1", None, k) for k in range(4)}
    made = cut(parts(table, selection=selection, mask_truncated=True), all_of_p1)
    metrics = one_step(made, prompts).metrics
    assert [p.prompt_id for p in made.trainer.batches[0].prompts] == ["p0", "p2", "p3"]
    assert (metrics["mars/prompts_kept"], metrics["mars/frac_undefined"]) == (3, 0.25)
    assert (metrics["mars/frac_zero_signal"], metrics["mars/responses_masked"]) == (0.25, 4)
    assert "mars/gain/mean" in metrics


def test_a_step_whose_every_response_is_cut_makes_no_update(prompts):
    made = cut(
        parts(make_table(prompts, random.Random(3)), mask_truncated=True),
        {(p.prompt_id, None, k) for p in prompts for k in range(4)},
    )
    metrics = one_step(made, prompts).metrics
    assert (metrics["mars/prompts_kept"], metrics["mars/responses_masked"]) == (0, 16)
    assert made.trainer.batches == []
    assert "critic/advantages/mean" not in metrics


def test_rounds_go_on_and_carried_prompts_stay_masked(prompts):
    """p0 is all cut: a second round finds p2 and p3, and p3 is carried without its cut response."""
    table = make_table(prompts, random.Random(4))
    made = parts(table, selection="nonzero_advantage", mask_truncated=True, max_rounds=5)
    made = cut(made, {*(("p0", None, k) for k in range(4)), ("p3", None, 1)})
    first = train_step(made, Rounds(prompts, 2), SamplingState(0, ()), 1)
    assert (first.metrics["mars/rounds"], first.metrics["mars/responses_masked"]) == (2, 5)
    assert set(seen_advantages(made.trainer)) == {"p1", "p2"}
    train_step(made, Rounds(prompts, 2), first.state, 2)
    wanted = expected_advantages(table, "p3")
    assert seen_advantages(made.trainer, 1)["p3"] == pytest.approx({k: wanted[k] for k in (0, 2, 3)}, rel=1e-9)


def test_the_overlong_penalty_of_a_cut_response_counts_in_the_pool(prompts):
    """Limit 4 tokens, buffer 2, factor 1: samples 0, 1, 2 have 2, 3 and, cut, 3 tokens: penalties 0, -0.5, -0.5."""
    table = rewards_of(prompts[:1], [1.0, 1.0, 1.0], [])
    made = parts(table, samples=3, anchor="none", mask_truncated=True, overlong=OverlongPenalty(4, 2, 1.0))
    made = cut(made, {("p0", None, 2)})
    one_step(made, prompts[:1])
    std = math.sqrt(((1 / 3) ** 2 + 2 * (1 / 6) ** 2) / 2)
    wanted = {0: pytest.approx(1 / 3 / std, rel=1e-4), 1: pytest.approx(-1 / 6 / std, rel=1e-4)}
    assert seen_advantages(made.trainer) == {"p0": wanted}
