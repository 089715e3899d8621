"""Who is a target, how many of the second half each prompt gets, and the metrics of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.allocation import allocation_metrics, is_target, second_half, seeded_order
from mars.types import RewardResult
from tests.builders import make_rollouts


def accurate(accuracies):
    """The score says nothing: -1 for all. None: could not be scored."""
    return [None if accuracy is None else RewardResult(-1.0, accuracy, {}) for accuracy in accuracies]


def item(multi, *anchors, name="p"):
    views = {f"s{i}": accurate(some) for i, some in enumerate(anchors)}
    return make_rollouts(name, accurate(multi), **views)


@pytest.mark.parametrize(
    ("multi", "anchors", "conflict", "unsolved"),
    [
        ([0, 0], [[1], [0]], True, True),
        ([0, 0], [[0], [0]], False, True),
        ([0, 1], [[1], [1]], False, False),
        ([0.49, 0.2], [[0.5]], True, True),  # right from 0.5 on
        ([0.5, 0.0], [[1]], False, False),
        ([0, 0], [], False, True),  # one source has no anchors
        ([0, None], [[None], [1]], True, True),
        ([0, 0], [[None]], False, True),  # an anchor that could not be scored is not right
        ([None, None], [[1]], True, True),
        ([None, 1], [[1]], False, False),
        ([0], [[0, 0, 1]], True, True),
    ],
)
def test_targets_by_hand(multi, anchors, conflict, unsolved):
    found = item(multi, *anchors)
    assert (is_target(found, "conflict"), is_target(found, "unsolved")) == (conflict, unsolved)


@pytest.mark.parametrize(
    ("targets", "first", "samples", "expected"),
    [
        ("....", 2, 4, [2, 2, 2, 2]),
        ("xxxx", 2, 4, [2, 2, 2, 2]),
        (".x.x", 2, 4, [0, 4, 0, 4]),
        ("..x.", 2, 4, [0, 0, 8, 0]),
        ("xx.x", 2, 4, [3, 3, 0, 2]),  # 8 for three: the first two in order get one more
        ("x.......", 2, 4, [14, 1, 1, 0, 0, 0, 0, 0]),  # 16 - 2 is the cap
        ("x.x", 2, 3, [2, 0, 1]),  # G = 3: one rollout of each prompt is in the second half
        ("x..........", 2, 3, [10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),  # 12 - 2 of 11
        ("x", 1, 2, [1]),
        ("", 2, 4, []),
    ],
)
def test_counts_by_hand_in_the_order_of_the_prompts(targets, first, samples, expected):
    chosen = [mark == "x" for mark in targets]
    assert second_half(chosen, range(len(chosen)), first, samples) == expected


def test_the_order_decides_who_gets_the_remainder():
    assert second_half([True, True, False, True], [3, 2, 1, 0], 2, 4) == [2, 3, 0, 3]
    assert second_half([True] + [False] * 7, [7, 6, 5, 4, 3, 2, 1, 0], 2, 4) == [14, 0, 0, 0, 0, 0, 1, 1]


ROUNDS = st.lists(st.booleans(), min_size=1, max_size=40).flatmap(
    lambda targets: st.tuples(st.just(targets), st.permutations(range(len(targets))), st.integers(2, 40))
)


@given(ROUNDS)
def test_a_round_has_as_many_rollouts_as_with_even_whatever_the_targets_are(given):
    targets, order, samples = given
    first = samples - samples // 2
    counts = second_half(targets, order, first, samples)
    assert min(counts) >= 0
    assert len(targets) * first + sum(counts) == len(targets) * samples
    sizes = [first + count for count in counts]
    assert max(sizes) <= 4 * samples
    of_targets = [size for size, chosen in zip(sizes, targets, strict=True) if chosen]
    others = [size for size, chosen in zip(sizes, targets, strict=True) if not chosen]
    assert all(max(some) - min(some) <= 1 for some in (of_targets, others) if some), "as evenly as possible"
    if of_targets:
        assert min(of_targets) >= samples >= max(others, default=0)
        assert max(others, default=first) == first or min(of_targets) == 4 * samples, (
            "others get what is beyond the cap"
        )
    if not of_targets or not others:
        assert sizes == [samples] * len(targets)


def test_the_order_is_that_of_the_seed_and_the_step_and_follows_the_prompts():
    names = [f"p{i}" for i in range(12)]
    order = seeded_order(names, 3, 1)
    assert sorted(order) == list(range(12))
    assert order == seeded_order(names, 3, 1)
    assert len({tuple(seeded_order(names, seed, step)) for seed in (3, 4) for step in (1, 2, 3)}) == 6
    by_name = [names[i] for i in order]
    assert [names[::-1][i] for i in seeded_order(names[::-1], 3, 1)] == by_name
    first = Counter(seeded_order(["a", "b", "c"], 0, step)[0] for step in range(300))
    assert all(abs(count - 100) < 40 for count in first.values()), "each is first equally often"


def test_metrics_by_hand():
    """Three of four prompts were targets with 2 rollouts each at first; one of them got a right one later."""
    prompts = [
        item([0, 0, 0, 1, 1], name="a"),
        item([0, 0, 0], name="b"),
        item([1, 0], name="c"),
        item([0, 0, None, 0.4], name="d"),
    ]
    assert allocation_metrics(prompts, {"a", "b", "d", "not sampled"}, 2) == {
        "mars/allocation/frac_target": 0.75,
        "mars/allocation/max_samples": 5.0,
        "mars/allocation/rescued": 1 / 3,
        "mars/allocation/first_score": -1.0,
    }
    assert allocation_metrics(prompts, set(), 2) == {
        "mars/allocation/frac_target": 0.0,
        "mars/allocation/max_samples": 5.0,
        "mars/allocation/first_score": -1.0,
    }
    assert allocation_metrics([], {"a"}, 2) == {}


def test_the_first_score_counts_every_prompt_alike():
    """Of the first two of each: 1, 0; 0, failed; 0.5 with a penalty of the KL term of 0.25. Their mean is 1.75 / 4."""
    scored = [[RewardResult(score, score, {}) for score in scores] for scores in ([1.0, 0.0], [0.0, 0.0, 0.0, 0.0])]
    penalised = RewardResult(0.5, 0.75, {"kl_penalty": -0.25})
    prompts = [
        make_rollouts("a", scored[0]),
        make_rollouts("b", [scored[1][0], None, *scored[1]]),
        make_rollouts("c", [penalised]),
    ]
    assert allocation_metrics(prompts, {"b"}, 2)["mars/allocation/first_score"] == 1.75 / 4


def test_no_first_score_without_a_scored_response():
    assert "mars/allocation/first_score" not in allocation_metrics([make_rollouts("a", [None, None])], set(), 2)
