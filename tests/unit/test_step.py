"""A whole step with fakes: script -> rewards -> advantages -> batch -> trainer -> weights. No model, no Ray."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from mars.data.prompts.views import anchor_views
from mars.rewards.local import LocalScorer
from mars.step import train_step
from mars.step_parts import SamplingState
from tests.builders import make_prompt
from tests.fakes.step import IMAGE, Rounds, one_step, parts
from tests.fakes.trainer import RecordingTrainer


def make_table(prompts, rng, samples=4, anchor_samples=2, anchor="mono"):
    """Every reward of every prompt is different from all others."""
    keys = [(p.prompt_id, None, k) for p in prompts for k in range(samples)]
    keys += [(p.prompt_id, v, k) for p in prompts for v in anchor_views(p, anchor) for k in range(anchor_samples)]
    scores = rng.sample(range(10_000), len(keys))
    return {key: score / 10_000 for key, score in zip(keys, scores, strict=True)}


def expected_advantages(table, prompt_id):
    """{sample: advantage} of the valid multi rollouts, by the formula of the paper, in NumPy."""
    multi = {k: r for (p, view, k), r in table.items() if p == prompt_id and view is None and r is not None}
    anchors = [r for (p, view, _), r in table.items() if p == prompt_id and view is not None and r is not None]
    pool = np.array([*multi.values(), *anchors])
    if len(pool) < 2:
        return {}
    return {k: (r - pool.mean()) / (pool.std(ddof=1) + 1e-6) for k, r in multi.items()}


def seen_advantages(trainer, number=0):
    """{prompt_id: {sample: advantage}} of the weighted rows; a row that comes twice is an error."""
    seen = {}
    for prompt_id, target in trainer.targets[number]:
        if target.weight:
            sample = target.response.token_ids.count(5) - 1
            assert sample not in seen.setdefault(prompt_id, {})
            seen[prompt_id][sample] = target.response.advantage
    return seen


@pytest.fixture
def prompts():
    numbers = [1, 2, 3, 2, 1, 3, 2, 2, 3]
    return [make_prompt(f"p{i}", [IMAGE] * n, extra_info={"name": f"p{i}"}) for i, n in enumerate(numbers)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("anchor", ["mono", "all_but_one", "none"])
def test_every_response_gets_the_advantage_of_its_own_prompt(prompts, seed, anchor):
    rng = random.Random(seed)
    rng.shuffle(prompts)
    table = make_table(prompts, rng, anchor=anchor)
    # Half of the prompts have no signal: all rewards of the pool are equal.
    flat = {p.prompt_id for p in prompts[::2]}
    table = {key: 0.5 if key[0] in flat else score for key, score in table.items()}
    made = parts(
        table, anchor=anchor, selection="nonzero_advantage", num_ranks=rng.randint(1, 3), per_update=rng.randint(1, 4)
    )
    result = one_step(made, prompts, step=1)
    kept = {p.prompt_id for p in prompts} - flat
    seen = seen_advantages(made.trainer)
    assert set(seen) == kept
    for prompt_id in kept:
        assert seen[prompt_id] == pytest.approx(expected_advantages(table, prompt_id), rel=1e-9)
    assert result.metrics["mars/prompts_kept"] == len(kept)


def test_anchors_follow_their_prompt_and_never_its_neighbour(prompts):
    """With another prompt's anchors every single advantage would be another one."""
    table = make_table(prompts, random.Random(0))
    made = parts(table)
    one_step(made, prompts, step=1)
    anchors = {
        p.prompt_id: [s for (name, view, _), s in table.items() if name == p.prompt_id and view] for p in prompts
    }
    for item in made.trainer.batches[0].prompts:
        multi = [table[item.prompt_id, None, k] for k in range(4)]
        for name, others in anchors.items():
            pool = np.array(multi + others)
            wanted = (multi - pool.mean()) / (pool.std(ddof=1) + 1e-6)
            same = [r.advantage == pytest.approx(a, rel=1e-9) for r, a in zip(item.responses, wanted, strict=True)]
            assert same == [name == item.prompt_id or anchors[item.prompt_id] == others] * 4


def test_failed_rewards_mask_their_sample_and_are_counted(prompts):
    table = make_table(prompts, random.Random(1))
    failed = [("p1", None, 2), ("p1", ("s0",), 0), ("p3", None, 0), ("p3", None, 3), ("p5", ("s2",), 1)]
    for key in failed:
        table[key] = None
    made = parts(table)
    result = one_step(made, prompts, step=1)
    assert result.metrics["reward/failed"] == 5
    seen = seen_advantages(made.trainer)
    assert 2 not in seen["p1"]
    assert set(seen["p3"]) == {1, 2}
    for prompt in prompts:
        assert seen[prompt.prompt_id] == pytest.approx(expected_advantages(table, prompt.prompt_id), rel=1e-9)
    # A failed rollout is in no mean either.
    valid = [score for (_, view, _), score in table.items() if view is None and score is not None]
    assert result.metrics["critic/score/mean"] == pytest.approx(np.mean(valid))
    assert result.metrics["reward/part/mean"] == pytest.approx(np.mean(valid))


def test_a_score_beyond_the_bound_masks_its_sample(prompts, tmp_path):
    """1e308 would overflow, 1e155 would square to infinity. The run goes on with the other samples."""
    (tmp_path / "r.py").write_text("def f(item): return [1e308, 1e155, 0.0, 1.0][int(item.response)]\n")
    made = parts({}, scorer=LocalScorer(f"{tmp_path / 'r.py'}:f", "strict"))
    result = one_step(made, prompts, step=1)
    views = sum(len(anchor_views(p, "mono")) for p in prompts)
    assert result.metrics["reward/failed"] == 2 * len(prompts) + 2 * views  # both samples of an anchor view
    assert result.metrics["critic/rewards/max"] == 1.0
    for advantages in seen_advantages(made.trainer).values():
        assert advantages == pytest.approx({2: -(0.5**0.5), 3: 0.5**0.5}, rel=1e-5)


def test_a_prompt_with_fewer_than_two_valid_rewards_trains_nothing(prompts):
    table = make_table(prompts, random.Random(2))
    for key in table:
        if key[0] == "p0" and key != ("p0", None, 1):
            table[key] = None  # one valid reward
        if key[0] == "p1" and key[1] is None:
            table[key] = None  # anchors only
    made = parts(table)
    result = one_step(made, prompts, step=1)
    seen = seen_advantages(made.trainer)
    assert set(seen) == {p.prompt_id for p in prompts} - {"p0", "p1"}
    assert result.metrics["mars/prompts_kept"] == len(prompts) - 2
    assert result.metrics["mars/frac_undefined"] == pytest.approx(2 / len(prompts))


@pytest.mark.parametrize("multi", [None, 0.5])
def test_without_a_kept_prompt_there_is_no_update_and_the_weights_stay(prompts, multi):
    """All multi rewards failed (their anchors did not), or all rewards are equal."""
    table = dict.fromkeys(make_table(prompts, random.Random(0)), 0.5)
    table = {key: multi if key[1] is None else score for key, score in table.items()}
    made = parts(table, selection="all" if multi is None else "nonzero_advantage")
    result = one_step(made, prompts, step=1)
    assert made.trainer.batches == []
    assert made.engine.updates == []
    assert result.metrics["mars/prompts_kept"] == 0
    assert "timing_s/update_actor" not in result.metrics
    assert result.metrics["timing_s/step"] > 0
    assert len(result.rollouts) == len(prompts)


def test_one_call_of_engine_and_scorer_and_the_new_weights_reach_the_engine(prompts):
    made = parts(make_table(prompts, random.Random(0)))
    calls = []
    generate = made.engine.generate
    made.engine.generate = lambda requests: calls.append(len(requests)) or generate(requests)
    for step in (1, 2):
        one_step(made, prompts, step)
    views_of_all = sum(1 + len(anchor_views(p, "mono")) for p in prompts)
    assert calls == [views_of_all, views_of_all]
    assert made.scorer.calls == 2
    assert [(u.version, u.payload) for u in made.engine.updates] == [(1, {"updates": 1}), (2, {"updates": 2})]


def test_the_engine_is_told_the_next_round_before_the_update(prompts):
    """What is announced is what the next step asks for, and it is known while the trainer works."""
    table = make_table(prompts, random.Random(0))
    made = parts(table)
    announced = []

    class Watching(RecordingTrainer):
        def update(self, batch):
            announced.append(list(made.engine.prefetched))
            return super().update(batch)

    made = replace(made, trainer=Watching())
    rounds = Rounds(prompts, 3)
    result = train_step(made, rounds, SamplingState(0, ()), 1)
    asked_before = len(made.engine.requests)
    train_step(made, rounds, result.state, 2)
    assert announced[0] == made.engine.requests[asked_before:]
    assert {request.prompt_id for request in announced[0]} == {"p3", "p4", "p5"}


def test_the_same_step_asks_the_same_and_another_step_draws_anew(prompts):
    table = make_table(prompts, random.Random(0))
    asked = []
    for step in (4, 4, 5):
        made = parts(table)
        one_step(made, prompts, step)
        asked.append(made.engine.requests)
    assert asked[0] == asked[1]
    assert [replace(r, seed=0) for r in asked[0]] == [replace(r, seed=0) for r in asked[2]]
    assert {r.seed for r in asked[0]}.isdisjoint(r.seed for r in asked[2])


def test_without_anchors_none_are_generated_and_the_advantages_are_plain_grpo(prompts):
    table = make_table(prompts, random.Random(3), anchor="none")
    made = parts(table, anchor="none")
    result = one_step(made, prompts, step=1)
    assert {request.view for request in made.engine.requests} == {None}
    assert result.metrics["anchor/tokens"] == 0
    assert not [key for key in result.metrics if key.startswith(("mars/gain", "mars/anchor", "mars/lambda"))]
    for prompt_id, advantages in seen_advantages(made.trainer).items():
        rewards = np.array([table[prompt_id, None, k] for k in range(4)])
        by_hand = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
        assert [advantages[k] for k in range(4)] == pytest.approx(by_hand.tolist(), rel=1e-9)
        assert sum(advantages.values()) == pytest.approx(0, abs=1e-9)


def test_every_stage_is_timed_and_the_parts_add_up(prompts):
    class Slow(RecordingTrainer):
        def update(self, batch):
            return replace(super().update(batch), old_logprob_seconds=1e-9)

    made = parts(make_table(prompts, random.Random(0)), trainer=Slow())
    metrics = one_step(made, prompts, step=1).metrics
    stages = ["gen", "reward", "old_log_prob", "update_actor", "sync_weights", "driver"]
    assert sum(metrics[f"timing_s/{name}"] for name in stages) == pytest.approx(metrics["timing_s/step"])
    assert metrics["timing_s/old_log_prob"] == pytest.approx(1e-9)
    tokens = sum(r.num_samples * len(r.prompt_token_ids) for r in made.engine.requests) + metrics["rollout/tokens"]
    assert metrics["perf/throughput"] == pytest.approx(tokens / metrics["timing_s/step"])


def test_an_engine_that_returns_too_few_samples_is_an_error(prompts):
    made = parts(make_table(prompts, random.Random(0)))
    generate = made.engine.generate
    made.engine.generate = lambda requests: (samples[:-1] for samples in generate(requests))
    with pytest.raises(ValueError, match=r"samples \[0, 1, 2\] of 4 for prompt p0"):
        one_step(made, prompts, step=1)
    made.engine.generate = lambda requests: list(generate(requests))[:-1]
    with pytest.raises(ValueError, match=r"samples \[\] of 2"):
        one_step(made, prompts, step=1)
