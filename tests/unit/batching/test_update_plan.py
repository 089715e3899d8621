"""How a batch is split over updates, ranks and forwards: a few sums by hand, and properties on any batch."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.batching.plan import assign_to_ranks, micro_batches, plan_updates
from mars.train_types import MicroBatch, TrainPrompt, TrainResponse
from mars.types import ImageRef
from tests.examples import examples

IMAGE = (ImageRef("a.png", (28, 28)),)


def make(prompt_tokens, response_tokens, pictured=True, name="p"):
    responses = tuple(TrainResponse((7,) * n, (0.0,) * n, 0.0, 1.0) for n in response_tokens)
    return TrainPrompt(name, (1,), prompt_tokens, IMAGE if pictured else (), responses, 1.0)


def weighted(micro):
    return micro.rows[: len(micro.rows) - micro.num_fillers]


def fillers(micro):
    return micro.rows[len(micro.rows) - micro.num_fillers :]


described = st.tuples(st.integers(1, 60), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.booleans())


@given(st.lists(described, min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 300))
@examples(300)
def test_any_plan_holds_what_the_trainer_relies_on(prompts, per_update, num_ranks, budget):
    prompts = [make(*described, name=str(i)) for i, described in enumerate(prompts)]
    plans = plan_updates(prompts, per_update, num_ranks, budget, "padded")
    assert plans == plan_updates(prompts, per_update, num_ranks, budget, "padded")

    def tokens(row):
        return prompts[row[0]].num_prompt_tokens + len(prompts[row[0]].responses[row[1]].token_ids)

    # Every row exactly once, in the update its prompt's place says.
    rows = Counter(row for plan in plans for rank in plan.ranks for micro in rank for row in weighted(micro))
    assert rows == Counter((i, k) for i, p in enumerate(prompts) for k in range(len(p.responses)))
    for number, plan in enumerate(plans):
        assert {i // per_update for i, _ in plan.rows} == {number}
        assert len(plan.ranks) == num_ranks
        # Whole prompts on one rank; a prompt's rows stay neighbours there.
        home = {}
        for rank, forwards in enumerate(plan.ranks):
            order = [i for micro in forwards for i, _ in weighted(micro)]
            assert [a for a, b in pairwise([*order, None]) if a != b] == list(dict.fromkeys(order))
            for i in order:
                assert home.setdefault(i, rank) == rank
        # Ranks run equally many forwards, all with an image or all without.
        assert len({len(forwards) for forwards in plan.ranks}) == 1
        forwards = [micro for rank in plan.ranks for micro in rank]
        seeing = [any(prompts[i].images for i, _ in micro.rows) for micro in forwards]
        assert all(seeing) or not any(seeing)
        for micro in forwards:
            assert micro.rows
            assert all(row in plan.rows for row in fillers(micro))
            # The budget counts fillers and padding. A row that is alone over it stands alone, but for its filler.
            if len(weighted(micro)) > 1:
                assert len(micro.rows) * max(map(tokens, micro.rows)) <= budget
            assert micro.num_fillers <= 1
        # No forward could be saved: on the busiest rank no forward is only fillers.
        assert any(all(weighted(micro) for micro in rank) for rank in plan.ranks)


def test_a_text_forward_next_to_images_gets_the_shortest_row_that_shows_one():
    prompts = [make(50, [10, 5]), make(8, [2, 2], pictured=False), make(40, [9])]
    (plan,) = plan_updates(prompts, 3, 1, 100, "padded")
    filler = (2, 0)
    assert plan.ranks == ((
        MicroBatch(((0, 0),)), MicroBatch(((0, 1),)), MicroBatch(((2, 0),)),
        MicroBatch(((1, 0), filler), 1), MicroBatch(((1, 1), filler), 1),
    ),)  # fmt: skip
    (wider,) = plan_updates(prompts, 3, 1, 147, "padded")  # three rows padded to the filler's 49 tokens
    assert wider.ranks[0][-1] == MicroBatch(((1, 0), (1, 1), filler), 1)


def test_many_short_texts_are_not_padded_to_a_long_picture_beyond_the_budget():
    prompts = [make(1000, [10]), *(make(8, [2] * 4, pictured=False) for _ in range(20))]
    (plan,) = plan_updates(prompts, 21, 1, 5000, "padded")
    assert max(len(micro.rows) for micro in plan.ranks[0]) == 4  # 4 rows of up to 1010 tokens
    (text_only,) = plan_updates(prompts[1:], 20, 1, 5000, "padded")
    assert text_only.ranks == (
        (MicroBatch(tuple((i, k) for i in range(20) for k in range(4))),),
    )  # 80 rows of 10 tokens need no filler


def test_ranks_without_work_run_fillers():
    (plan,) = plan_updates([make(10, [5, 3])], 4, 3, 15, "padded")
    assert plan.ranks == (
        (MicroBatch(((0, 0),)), MicroBatch(((0, 1),))),
        (MicroBatch(((0, 1),), 1),) * 2,
        (MicroBatch(((0, 1),), 1),) * 2,
    )
    assert plan.rows == ((0, 0), (0, 1))


def test_work_is_shared_evenly_over_ranks():
    lengths = [100, 90, 20, 20, 10, 10, 5, 5]
    (plan,) = plan_updates([make(n, [1]) for n in lengths], 8, 2, 10_000, "padded")
    loads = [sum(lengths[i] for micro in rank for i, _ in weighted(micro)) for rank in plan.ranks]
    assert loads == [130, 130]


def test_no_prompt_no_update():
    assert plan_updates([], 4, 2, 100, "padded") == ()


def test_fillers_take_their_place_in_every_micro_batch():
    assert micro_batches([3, 3, 3, 3], 9, num_fillers=1) == [[0, 1], [2, 3]]
    assert micro_batches([3, 3, 3], 9) == [[0, 1, 2]]
    assert micro_batches([9, 3], 9, num_fillers=1) == [[0], [1]]


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 4))
@examples(100)
def test_longest_first_is_within_its_bound_of_the_best_split(costs, num_ranks):
    """Graham 1969: at most 4/3 - 1/(3 ranks) of the optimum, found here by trying everything in turn."""
    totals = {(0,) * num_ranks}
    for cost in costs:
        totals = {
            tuple(sorted(t + cost * (r == rank) for r, t in enumerate(loads)))
            for loads in totals
            for rank in range(num_ranks)
        }
        if len(totals) > 3000:
            return
    best = min(max(loads) for loads in totals)
    mine = max(sum(costs[i] for i in items) for items in assign_to_ranks(costs, num_ranks))
    assert best <= mine <= best * (4 / 3 - 1 / (3 * num_ranks)) + 1e-9


@pytest.mark.parametrize("bad", [0, -1])
def test_no_rank_is_an_error(bad):
    with pytest.raises(ValueError, match="num_ranks"):
        assign_to_ranks([1], bad)
