from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.batching.collate import scoring_batch, train_batch
from mars.batching.plan import assign_to_ranks, micro_batches, plan_updates
from mars.train_types import TrainPrompt, TrainResponse
from mars.types import ImageRef, SampledPrompt, Sampling
from tests.builders import IMAGE, make_group, make_prompt, make_rollouts
from tests.examples import examples

SAMPLING = Sampling(1.0, 1.0, -1, 8)


def kept(prompt_id, multi, **anchors):
    """A prompt with such multi rewards, None for a failed one; rollout k has k + 1 tokens.

    The advantages are -0.5, -1.5, ..., the weights 1.
    """
    rollouts = make_rollouts(make_prompt(prompt_id, [IMAGE] * 2, ["a", "b"]), multi, **anchors)
    valid = range(len(rollouts.multi.valid))
    return SampledPrompt(rollouts, tuple(-k - 0.5 for k in valid), (1.0,) * len(valid))


def collate(items, num_ranks=1):
    return train_batch(
        items, prompt_length=lambda request: 10, prompts_per_update=2, num_ranks=num_ranks,
        tokens_per_forward=1000, packing="shared_prefix",
    )  # fmt: skip


def test_only_valid_rollouts_of_the_own_prompt():
    batch = collate(
        [
            kept("x", [1.0, None, 0.5], a=[0.25], b=[None]),
            kept("y", [None, None], a=[1.0], b=[1.0]),
            kept("z", [0.0], a=[0.75, None], b=[0.125]),
        ]
    )
    x, z = batch.prompts
    assert (x.prompt_id, z.prompt_id) == ("x", "z")
    found = [(len(r.token_ids), r.advantage, r.weight, r.off_policy) for r in x.responses]
    assert found == [(1, -0.5, 1.0, False), (3, -1.5, 1.0, False)]
    assert x.responses[1].rollout_logprobs == (-0.5,) * 3
    assert (x.prompt_token_ids, x.num_prompt_tokens) == ((1, 2, 3), 10)


def test_responses_keep_the_temperature_that_they_were_sampled_with():
    """Carried ones too; greedy anchors are scored at that of the multi responses."""

    def at(item, temperature):
        groups = (item.rollouts.multi, *item.rollouts.anchors)
        multi, *anchors = (
            replace(group, request=replace(group.request, sampling=Sampling(t, 1.0, -1, 8)))
            for group, t in zip(groups, (temperature, *[0.0] * 9), strict=False)
        )
        return replace(item, rollouts=replace(item.rollouts, multi=multi, anchors=tuple(anchors)))

    items = [at(kept("x", [1.0, 0.5], a=[0.25]), 0.75), at(replace(kept("y", [1.0, 0.0]), carried=True), 1.25)]
    assert [prompt.temperature for prompt in collate(items).prompts] == [0.75, 1.25]
    scored = scoring_batch(
        [item.rollouts for item in items], prompt_length=lambda request: 10, num_ranks=1, tokens_per_forward=1000,
        packing="shared_prefix",
    )  # fmt: skip
    assert [prompt.temperature for prompt in scored.prompts] == [0.75, 0.75, 1.25]


@given(st.permutations(range(6)))
@examples(30)
def test_advantages_and_weights_stay_with_their_response_in_any_order(order):
    made = [kept(str(i), [float(i)] * 2) for i in range(6)]
    items = [replace(item, advantages=(i + 0.25, -i), weights=(0.5, i + 1.0)) for i, item in enumerate(made)]
    items[3] = replace(items[3], carried=True)
    for prompt in collate([items[i] for i in order], num_ranks=2).prompts:
        i = int(prompt.prompt_id)
        found = [(len(r.token_ids), r.advantage, r.weight) for r in prompt.responses]
        assert found == [(1, i + 0.25, 0.5), (2, -i, i + 1.0)]
        assert prompt.carried is (i == 3)


def test_a_response_of_weight_0_is_not_sent_and_a_prompt_without_others_neither():
    x, y = kept("x", [1.0, 0.5, None, 0.0]), kept("y", [1.0, 1.0])
    batch = collate([replace(x, weights=(1.0, 0.0, 0.25)), replace(y, weights=(0.0, 0.0))])
    (prompt,) = batch.prompts
    assert prompt.prompt_id == "x"
    assert [(len(r.token_ids), r.advantage, r.weight) for r in prompt.responses] == [(1, -0.5, 1.0), (4, -2.5, 0.25)]
    assert [plan.rows for plan in batch.updates] == [((0, 0), (0, 1))]
    assert collate([replace(y, weights=(0.0, 0.0))]).updates == ()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=f"not negative; got {weight}"):
        collate([replace(kept("x", [1.0]), weights=(weight,))])


def test_a_prompt_has_one_advantage_and_weight_for_each_valid_response():
    for name in ("advantages", "weights"):
        with pytest.raises(ValueError, match="zip"):
            collate([replace(kept("x", [1.0, None, 0.0]), **{name: (1.0,) * 3})])


def test_a_prompt_twice_or_a_view_as_multi_is_an_error():
    with pytest.raises(ValueError, match=r"twice.*'x'"):
        collate([kept("x", [1.0]), kept("x", [0.0])])
    item = kept("x", [1.0])
    mono = replace(item, rollouts=replace(item.rollouts, multi=make_group("x", ("a",), [1.0])))
    with pytest.raises(ValueError, match="multi group"):
        collate([mono])


def test_assignment_by_hand():
    assert assign_to_ranks([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]
    assert assign_to_ranks([1, 1, 1, 1], 2) == [[0, 2], [1, 3]]
    assert assign_to_ranks([4], 3) == [[0], [], []]
    assert assign_to_ranks([], 2) == [[], []]
    with pytest.raises(ValueError, match="num_ranks"):
        assign_to_ranks([1], 0)


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(1, 8))
@examples(200)
def test_assignment_takes_each_item_once_and_is_balanced(costs, ranks):
    members = assign_to_ranks(costs, ranks)
    assert len(members) == ranks
    assert sorted(i for one in members for i in one) == list(range(len(costs)))
    assert all(one == sorted(one) for one in members)
    largest = max(sum(costs[i] for i in one) for one in members)
    # Graham's bound against a lower bound of the best split, plus that no rank can do better than by the largest item.
    ordered = sorted(costs, reverse=True)
    pair = ordered[ranks - 1] + ordered[ranks] if len(costs) > ranks else 0
    best = max(sum(costs) / ranks, max(costs, default=0), pair)
    assert largest <= best + max(costs, default=0)
    assert assign_to_ranks(costs, ranks) == members


def test_micro_batches_by_hand():
    assert micro_batches([3, 3, 8, 2], 10) == [[0, 1], [2], [3]]
    assert micro_batches([2, 2, 5], 10) == [[0, 1], [2]]  # three rows padded to 5 would be 15
    assert micro_batches([5, 5], 10) == [[0, 1]]
    assert micro_batches([50, 1, 1], 10) == [[0], [1, 2]]
    assert micro_batches([], 10) == []


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
@examples(200)
def test_micro_batches_keep_order_and_budget_and_waste_none(costs, budget):
    batches = micro_batches(costs, budget)
    assert [i for one in batches for i in one] == list(range(len(costs)))
    for one in batches:
        assert len(one) == 1 or len(one) * max(costs[i] for i in one) <= budget
    for one, after in pairwise(batches):  # none could have taken the next item
        assert (len(one) + 1) * max(costs[i] for i in [*one, after[0]]) > budget


prompt_lists = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.booleans()),
    min_size=1,
    max_size=9,
)


@given(prompt_lists, st.integers(1, 4), st.integers(1, 3), st.integers(1, 300))
@examples(150)
def test_update_plans_hold_every_response_once(described, per_update, ranks, budget):
    image = (ImageRef("a.png", (28, 28)),)
    prompts = [
        TrainPrompt(
            str(i), (1,), length, image if pictured else (),
            tuple(TrainResponse((7,) * n, (0.0,) * n, 0.0, 1.0) for n in responses), 1.0,
        )
        for i, (length, responses, pictured) in enumerate(described)
    ]  # fmt: skip
    plans = plan_updates(prompts, per_update, ranks, budget, "padded")
    wanted = [(i, k) for i, prompt in enumerate(prompts) for k in range(len(prompt.responses))]
    assert [row for plan in plans for row in plan.rows] == wanted
    for number, plan in enumerate(plans):
        assert {i // per_update for i, _ in plan.rows} == {number}
        assert len(plan.ranks) == ranks
        assert len({len(batches) for batches in plan.ranks}) == 1
        homes = [{i for mb in one for i, _ in mb.rows[: len(mb.rows) - mb.num_fillers]} for one in plan.ranks]
        assert sum(map(len, homes)) == len(set().union(*homes))  # whole prompts on one rank
        forwards = [mb for one in plan.ranks for mb in one]
        pictured = [any(prompts[i].images for i, _ in mb.rows) for mb in forwards]
        assert all(pictured) or not any(pictured)
