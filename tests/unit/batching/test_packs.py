"""Packs of groups: a few by hand, and what the trainer relies on for any batch."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from mars.batching.packs import at_least, first_fit, packs_in_step, split_responses, spread
from mars.batching.plan import plan_updates
from mars.train_types import MicroBatch, TrainPrompt, TrainResponse
from mars.types import ImageRef
from tests.examples import examples

IMAGE = (ImageRef("a.png", (28, 28)),)


def make(prompt_tokens, response_tokens, pictured=True, name="p"):
    responses = tuple(TrainResponse((7,) * n, (0.0,) * n, 0.0, 1.0) for n in response_tokens)
    return TrainPrompt(name, (1,), prompt_tokens, IMAGE if pictured else (), responses, 1.0)


def weighted(micro):
    return micro.rows[: len(micro.rows) - micro.num_fillers]


def pack_cost(prompts, rows):
    """Every prompt once where its rows are neighbours, and all responses."""
    heads = [i for i, before in zip([i for i, _ in rows], [None, *(i for i, _ in rows)], strict=False) if i != before]
    return sum(prompts[i].num_prompt_tokens for i in heads) + sum(
        len(prompts[i].responses[k].token_ids) for i, k in rows
    )


def plan(prompts, per_update, num_ranks, budget):
    return plan_updates(prompts, per_update, num_ranks, budget, "shared_prefix")


described = st.tuples(st.integers(1, 60), st.lists(st.integers(0, 30), min_size=1, max_size=6), st.booleans())


@given(st.lists(described, min_size=1, max_size=9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 400))
@example([(1, [0], True), (1, [0], True), (1, [24, 30, 30, 30, 30, 30], False)], 3, 1, 175)
@examples(300)
def test_any_plan_of_packs_holds_what_the_trainer_relies_on(prompts, per_update, num_ranks, budget):
    prompts = [make(*one, name=str(i)) for i, one in enumerate(prompts)]
    plans = plan(prompts, per_update, num_ranks, budget)
    assert plans == plan(prompts, per_update, num_ranks, budget)
    rows = Counter(row for one in plans for rank in one.ranks for micro in rank for row in weighted(micro))
    assert rows == Counter((i, k) for i, p in enumerate(prompts) for k in range(len(p.responses)))
    for number, one in enumerate(plans):
        assert {i // per_update for i, _ in one.rows} == {number}
        assert len(one.ranks) == num_ranks
        assert len({len(forwards) for forwards in one.ranks}) == 1
        forwards = [micro for rank in one.ranks for micro in rank]
        seeing = [any(prompts[i].images for i, _ in micro.rows) for micro in forwards]
        assert all(seeing) or not any(seeing)
        pictured = [pack_cost(prompts, [row]) for row in one.rows if prompts[row[0]].images]
        assert all(micro.rows[-1] in one.rows for micro in forwards if micro.num_fillers)
        parts = Counter(i for micro in forwards for i in {i for i, _ in weighted(micro)})
        for micro in forwards:
            assert micro.rows
            assert micro.num_fillers <= 1
            # Over the budget only a single response (with its filler) is.
            assert len(weighted(micro)) <= 1 or pack_cost(prompts, micro.rows) <= budget
        for i, number_of_parts in parts.items():
            if number_of_parts > 1 and len(parts) >= num_ranks:  # split only where it must be
                whole = prompts[i].num_prompt_tokens + sum(len(r.token_ids) for r in prompts[i].responses)
                # A group without images stands beside a row with one, where there is any.
                assert whole + (0 if prompts[i].images else min(pictured, default=0)) > budget
        homes = [{i for micro in rank for i, _ in weighted(micro)} for rank in one.ranks]
        shared = {i for a, home in enumerate(homes) for other in homes[a + 1 :] for i in home & other}
        assert all(parts[i] > 1 for i in shared)  # whole prompts on one rank
        assert any(all(weighted(micro) for micro in rank) for rank in one.ranks)


@given(st.integers(0, 50), st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 200))
@examples(200)
def test_parts_keep_order_and_budget_and_waste_none(prompt_tokens, response_tokens, budget):
    parts = split_responses(prompt_tokens, response_tokens, budget)
    assert [k for part in parts for k in part] == list(range(len(response_tokens)))

    def cost(places):
        return prompt_tokens + sum(response_tokens[k] for k in places)

    assert all(len(part) == 1 or cost(part) <= budget for part in parts)
    assert all(cost([*part, after[0]]) > budget for part, after in pairwise(parts))


def test_parts_by_hand():
    assert split_responses(10, [3, 3, 4], 17) == [range(2), range(2, 3)]
    assert split_responses(10, [3, 3, 4], 20) == [range(3)]
    assert split_responses(10, [3, 30, 4], 17) == [range(1), range(1, 2), range(2, 3)]


def test_no_rank_idles_while_a_group_can_be_halved():
    assert at_least(3, ["abc", "d"], len) == ["a", "bc", "d"]
    assert at_least(9, ["ab", "c"], len) == ["a", "b", "c"]
    assert at_least(2, ["ab", "c", "d"], len) == ["ab", "c", "d"]
    prompts = [make(10, [4] * 8), make(10, [2] * 8)]
    (plan,) = plan_updates(prompts, 2, 4, 1000, "shared_prefix")
    costs = [sum(pack_cost(prompts, weighted(micro)) for micro in micros) for micros in plan.ranks]
    # Groups of 42 and 26: the first becomes 26 + 26, then one of these 18 + 18; no tie is broken by the second.
    assert sorted(costs) == [18, 18, 26, 26]
    assert sorted(row for micros in plan.ranks for micro in micros for row in weighted(micro)) == [
        (i, k) for i in range(2) for k in range(8)
    ]


def test_first_fit_by_hand():
    assert first_fit([6, 5, 4, 3], [0] * 4, 10) == [[0, 2], [1, 3]]
    assert first_fit([6, 5, 4, 3], [0, 3, 0, 0], 10) == [[0, 2], [1], [3]]
    assert first_fit([12, 5, 5], [0] * 3, 10) == [[0], [1, 2]]
    assert first_fit([], [], 10) == []


def test_spread_by_hand():
    assert spread([6, 5, 4, 3], [0] * 4, 2) == [[0, 3], [1, 2]]
    assert spread([6, 2, 2], [0, 5, 5], 2) == [[0, 2], [1]]  # 6 + 2 = 8 for the third; to open a pack costs 5 + 2
    assert spread([6], [0], 3) == [[0], [], []]


def test_ranks_that_wait_for_each_other_have_packs_of_like_size():
    assert packs_in_step([([9, 8, 2], [0] * 3), ([7, 2, 1], [0] * 3)], 10) == [[[1, 2], [0]], [[0], [1, 2]]]
    # By first fit a rank's packs would be 10 and 2, another's 6 and 6: 16 to wait for instead of 12.
    assert packs_in_step([([5, 5, 2], [0] * 3), ([6, 6], [0] * 2)], 10) == [[[0, 2], [1]], [[0], [1]]]
    assert packs_in_step([([], []), ([12, 1], [0] * 2)], 10) == [[], [[0], [1]]]
    # Even packs would be 5 + 3 + 3, 5 + 3 and 4 + 4, of which the first is too large.
    assert packs_in_step([([5, 5, 4, 4, 3, 3, 3], [0] * 7)], 9) == [[[0, 2], [1, 3], [4, 5, 6]]]


@given(st.lists(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=12), min_size=1, max_size=4))
@examples(200)
def test_packs_in_step_are_whole_and_no_more_than_first_fits(ranks):
    items = [
        ([cost for cost, _ in sorted(rank, reverse=True)], [o for _, o in sorted(rank, reverse=True)]) for rank in ranks
    ]
    found = packs_in_step(items, 80)
    for (costs, opening), packs in zip(items, found, strict=True):
        assert sorted(i for pack in packs for i in pack) == list(range(len(costs)))
        sizes = [opening[pack[0]] + sum(costs[i] for i in pack) for pack in packs]
        assert sizes == sorted(sizes, reverse=True)
        assert all(size <= 80 or len(pack) == 1 for size, pack in zip(sizes, packs, strict=True))
    assert max(map(len, found)) <= max(len(first_fit(*rank, 80)) for rank in items)


def test_a_prompt_is_paid_once():
    prompts = [make(100, [10] * 8), make(50, [5] * 2)]
    (one,) = plan(prompts, 2, 1, 240)
    assert one.ranks == ((MicroBatch((*((0, k) for k in range(8)), (1, 0), (1, 1))),),)
    (tight,) = plan(prompts, 2, 1, 179)  # one token less than the first needs: its last response goes elsewhere
    assert tight.ranks == (
        (MicroBatch(tuple((0, k) for k in range(7))), MicroBatch(((0, 7), (1, 0), (1, 1)))),
    )  # fmt: skip


def test_text_fills_the_room_beside_images_and_takes_a_filler_where_it_stands_alone():
    prompts = [make(20, [5], pictured=False), make(60, [10]), make(30, [4], pictured=False), make(40, [6])]
    (one,) = plan(prompts, 4, 1, 100)
    assert one.ranks == (
        (
            MicroBatch(((1, 0), (0, 0))),  # 70 + 25
            MicroBatch(((3, 0), (2, 0))),  # 46 + 34
        ),
    )
    (tighter,) = plan(prompts, 4, 1, 80)
    assert tighter.ranks == (
        (
            MicroBatch(((3, 0), (2, 0))),  # 80
            MicroBatch(((0, 0), (3, 0)), 1),  # 25 and the filler's 46
            MicroBatch(((1, 0),)),  # 70
        ),
    )


def test_parts_of_a_split_prompt_are_shared_over_ranks():
    (one,) = plan([make(100, [50] * 4)], 1, 2, 200)
    assert one.ranks == (
        (MicroBatch(((0, 0), (0, 1))),),
        (MicroBatch(((0, 2), (0, 3))),),
    )


def test_packs_are_shared_evenly_over_ranks_by_their_tokens():
    """By prompt and responses together; the prompt's length alone would put 100 and 90 on two ranks."""
    prompts = [make(100, [1]), make(90, [1]), make(10, [90] * 2), make(10, [1])]
    (one,) = plan(prompts, 4, 2, 10_000)
    loads = [sum(pack_cost(prompts, micro.rows) for micro in rank) for rank in one.ranks]
    assert sorted(loads) == [192, 201]
