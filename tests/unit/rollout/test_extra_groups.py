"""Groups of extra requests: which of them the pool, the penalties, the trainer and the metrics have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.penalties import OverlongPenalty, groups, with_kl_penalty, with_overlong_penalty
from mars.algorithms.pooled_rewards import PooledRewards, with_advantages, with_own_groups
from mars.batching.collate import scoring_batch, train_batch
from mars.rollout.collect import NOT_SCORED
from mars.rollout.metrics import anchor_share, extra_metrics, processed_tokens, rollout_metrics
from mars.staleness import renumbered, staleness
from mars.step_parts import SamplingState
from mars.types import RewardResult, SampledPrompt
from tests.builders import make_rollouts, with_extra

MARS = AdvantageSettings("group_norm", True, "mean_and_std", unbiased_std=True, std_floor=0.0, epsilon=0.0)
PLAN = {"prompt_length": lambda request: 10 * len(request.prompt_token_ids), "num_ranks": 1, "tokens_per_forward": 1000,
        "packing": "padded"}  # fmt: skip


def everything():
    """Multi 1, 0; one anchor 0.5; guests 0.5 and a failed one; an own group 1, 0; a signal; a given text of score 2."""
    item = make_rollouts("x", [1.0, 0.0], visible=[0.5])
    item = with_extra(item, "own", "own_group", [1.0, 0.0])
    item = with_extra(item, "noisy", "guest", [0.5, None], bounded=True)
    return with_extra(item, "blind", "signal", [1.0], about=0)


def sampled(item):
    def advantages(items):
        return PooledRewards.of_rollouts(items).advantages(MARS)

    return with_own_groups(with_advantages([item], advantages([item])), advantages)[0]


def test_guests_are_in_the_pool_and_own_groups_have_their_own():
    """Pool 1, 0, 0.5 and the anchor's 0.5: mean 0.5, variance (0.25 + 0.25) / 3."""
    found = sampled(everything())
    assert found.advantages == pytest.approx((1.5**0.5, -(1.5**0.5), 0.0))
    (own,) = found.own_groups
    assert own.advantages == pytest.approx((0.5**0.5, -(0.5**0.5)))
    rewards = PooledRewards.of_rollouts([everything()])
    assert (rewards.rewards.tolist(), rewards.anchor_rewards.tolist()) == ([1.0, 0.0, 0.5], [0.5])


def test_penalties_are_for_all_but_signals_and_stay_in_their_places():
    item = everything()
    overlong = OverlongPenalty(max_response_tokens=2, buffer_tokens=2, factor=1.0)  # rollout k has k + 1 tokens
    (shaped,) = with_overlong_penalty([item], overlong)
    scores = [[rollout.reward.score for rollout in group.rollouts] for group in groups(shaped)]
    assert scores == [[0.5, -1.0], [0.0, 0.0], [0.0], [0.5, -1.0]]  # multi, guests (one has failed), anchor, own group
    assert [group.request.key for group in shaped.extras] == [group.request.key for group in item.extras]
    assert shaped.extras[2] == item.extras[2]


def test_the_kl_of_a_guest_is_that_of_the_prompt_it_is_trained_with():
    item = everything()
    prompts = scoring_batch([item], **PLAN).prompts
    assert [(p.prompt_token_ids, len(p.responses)) for p in prompts] == [
        ((1, 2, 3), 2), ((1, 2, 3), 1), ((1, 2, 3), 1), ((4, 5), 2),
    ]  # fmt: skip
    (found,) = with_kl_penalty([item], [(1.0, 2.0), (3.0,), (4.0,), (5.0, 6.0)], 0.1)
    scores = [[rollout.reward.score for rollout in group.rollouts] for group in groups(found)]
    assert scores == [[0.9, -0.2], [pytest.approx(0.2), 0.0], [pytest.approx(0.1)], [0.5, pytest.approx(-0.6)]]


def test_a_guest_is_trained_with_the_clean_prompt_and_an_own_group_with_its_own_in_the_same_update():
    kept = [
        sampled(everything()),
        sampled(replace_id(everything(), "y")),
        SampledPrompt(make_rollouts("z", [1.0]), (0.5,), (1.0,)),
    ]
    batch = train_batch(kept, prompts_per_update=2, **PLAN)
    assert [(p.prompt_id, p.prompt_token_ids, p.num_prompt_tokens) for p in batch.prompts] == [
        ("x", (1, 2, 3), 30), ("x", (4, 5), 20), ("y", (1, 2, 3), 30), ("y", (4, 5), 20), ("z", (1, 2, 3), 30),
    ]  # fmt: skip
    assert [(r.off_policy, r.bounded) for r in batch.prompts[0].responses] == [(False, False)] * 2 + [(True, True)]
    assert [(r.off_policy, r.bounded) for r in batch.prompts[1].responses] == [(False, False)] * 2
    assert [sorted({p for p, _ in plan.rows}) for plan in batch.updates] == [[0, 1, 2, 3], [4]]


def replace_id(item, prompt_id):
    def named(group):
        rollouts = tuple(replace(rollout, prompt_id=prompt_id) for rollout in group.rollouts)
        return replace(group, request=replace(group.request, prompt_id=prompt_id), rollouts=rollouts)

    prompt = replace(item.prompt, prompt_id=prompt_id)
    others = (tuple(map(named, some)) for some in (item.anchors, item.extras))
    return type(item)(prompt, named(item.multi), *others)


def test_an_own_group_is_trained_where_its_prompt_has_weight_0():
    found = sampled(everything())
    found = replace(found, weights=(0.0,) * 3, carried=True)
    (own,) = train_batch([found], prompts_per_update=1, **PLAN).prompts
    assert (own.prompt_token_ids, len(own.responses), own.carried) == ((4, 5), 2, True)


def test_ages_are_those_of_all_responses_that_an_engine_sampled_and_that_are_trained_on():
    item = with_extra(everything(), "truth", "guest", [1.0], injected=True)
    found = sampled(item)
    assert staleness(found, 3) == [3] * (2 + 1 + 2)
    state = SamplingState(0, (found,), version=1)
    (moved,) = renumbered(state, 6).carried
    versions = {
        r.completion.version for group in (*groups(moved.rollouts), *moved.rollouts.extras) for r in group.rollouts
    }
    assert versions == {5}
    assert staleness(moved, 8) == [3] * 5


def test_metrics_of_extra_requests_by_hand():
    """Rollout k has k + 1 tokens. The signal of "y" has no truth; a request that was left out has no rollouts."""
    x, y = everything(), make_rollouts("y", [1.0])
    y = with_extra(y, "blind", "signal", [RewardResult(0.0, 0.0, {}, failed=NOT_SCORED)] * 2)
    y = with_extra(with_extra(y, "truth", "guest", [2.0], injected=True), "noisy", "guest", [])
    metrics = extra_metrics([x, y])
    assert metrics == {
        "extra/blind/score/mean": 1.0, "extra/blind/accuracy/mean": 0.0, "extra/blind/response_length/mean": 4 / 3,
        "extra/blind/responses": 3.0, "extra/blind/failed": 0.0, "extra/blind/left_out": 0.0,
        "extra/noisy/score/mean": 0.5, "extra/noisy/accuracy/mean": 0.0, "extra/noisy/response_length/mean": 1.5,
        "extra/noisy/responses": 2.0, "extra/noisy/failed": 1.0, "extra/noisy/left_out": 1.0,
        "extra/own/score/mean": 0.5, "extra/own/accuracy/mean": 0.0, "extra/own/response_length/mean": 1.5,
        "extra/own/responses": 2.0, "extra/own/failed": 0.0, "extra/own/left_out": 0.0,
        "extra/truth/score/mean": 2.0, "extra/truth/accuracy/mean": 0.0, "extra/truth/response_length/mean": 1.0,
        "extra/truth/responses": 1.0, "extra/truth/failed": 0.0, "extra/truth/left_out": 0.0,
    }  # fmt: skip
    assert extra_metrics([make_rollouts("z", [1.0], visible=[0.5])]) == {}
    # Multi 1 + 2 and 1, anchor 1, extras 3 (own), 3 (noisy), 1 and 3 (blind); the given text was not sampled.
    found = rollout_metrics([x, y], lambda request: 1)
    assert (found["rollout/tokens"], found["rollout/responses"], found["anchor/responses"]) == (15, 11, 1)
    length = lambda request: 10 * len(request.prompt_token_ids)  # noqa: E731
    assert processed_tokens([x, y], length) == 15 + 30 * (2 + 1 + 1) + 20 * (2 + 2 + 1 + 2)
    computed = 15 + 30 * 3 + 20 * 4
    assert anchor_share([x, y], length) == 31 / computed
