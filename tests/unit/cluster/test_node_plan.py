"""Bundles on nodes, on paper: whatever fits in any way is placed, and where pack and spread put it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mars.cluster.layout import layout
from mars.cluster.node_plan import Amount, Bundles, bundles_of, plan_lost, plan_nodes
from tests.examples import examples


def fits(engines, ranks, free):
    """Tries every assignment."""

    def rec(node, left_engines, left_ranks):
        if node == len(free):
            return left_engines == left_ranks == 0
        return any(
            free[node].cpus >= engines.size.cpus * x + ranks.size.cpus * y
            and free[node].gpus >= engines.size.gpus * x + ranks.size.gpus * y
            and rec(node + 1, left_engines - x, left_ranks - y)
            for x in range(left_engines + 1)
            for y in range(left_ranks + 1)
        )

    return rec(0, len(engines.indices), len(ranks.indices))


@st.composite
def clusters(draw):
    free = draw(st.lists(st.builds(Amount, st.integers(0, 8), st.integers(0, 6)), max_size=4))
    sizes = [Amount(draw(st.integers(1, 3)), draw(st.integers(0, most))) for most in (3, 1)]
    num_engines, num_ranks = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    return (
        Bundles(sizes[0], range(num_engines), draw(st.integers(1, 2))),
        Bundles(sizes[1], range(num_engines, num_engines + num_ranks), draw(st.integers(1, 3))),
        free,
    )


@given(clusters(), st.sampled_from(["pack", "spread"]))
def test_what_fits_in_any_way_is_placed_within_what_is_free(cluster, strategy):
    engines, ranks, free = cluster
    plan = plan_nodes(engines, ranks, free, strategy)
    assert (plan is not None) == fits(engines, ranks, free)
    if plan is None:
        return
    assert sorted(plan) == [*engines.indices, *ranks.indices]
    for kind in (engines, ranks):
        nodes = [plan[bundle] for bundle in kind.indices]
        assert nodes == sorted(nodes), "consecutive ones are on the same node or on neighbours"
    for node, has in enumerate(free):
        here = [engines.size if bundle in engines.indices else ranks.size for bundle in plan if plan[bundle] == node]
        assert has.holds(Amount(sum(size.cpus for size in here), sum(size.gpus for size in here)))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 8), st.integers(12, 20))
def test_spread_engines_are_on_every_node_in_turn_where_nodes_are_equal(num_engines, num_nodes, num_ranks, room):
    size = Amount(1, 0)
    engines, ranks = Bundles(size, range(num_engines), 1), Bundles(size, range(num_engines, num_engines + num_ranks), 1)
    plan = plan_nodes(engines, ranks, [Amount(room, 0)] * num_nodes, "spread")
    if num_engines + num_ranks > room * num_nodes:
        assert plan is None
        return
    assert plan is not None
    counts = Counter(plan[bundle] for bundle in engines.indices)
    assert len(counts) == min(num_engines, num_nodes)
    assert max(counts.values()) == -(-num_engines // num_nodes)


def nodes(plan):
    """Of each bundle."""
    return [plan[bundle] for bundle in sorted(plan)]


def gpus(*numbers, cpus=64):
    return [Amount.of({"CPU": cpus, "GPU": number}) for number in numbers]


def placed(free, strategy, num_engines, gpus_per_engine, num_ranks, group=1, shared=False):
    plan = layout(num_engines, gpus_per_engine, num_ranks, cpus=0.5, on_gpu=True, shared=shared)
    found = plan_nodes(*bundles_of(plan, group), free, strategy)
    return None if found is None else nodes(found)


def test_both_strategies_by_hand():
    two = gpus(8, 8)
    assert placed(two, "pack", 8, 1, 8) == [0] * 8 + [1] * 8
    assert placed(two, "spread", 8, 1, 8) == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert placed(two, "pack", 1, 4, 12) == [0, *[0] * 4, *[1] * 8], "ranks 0 to 3, and 4 to 11"
    assert placed(gpus(4, 4, 4), "spread", 4, 2, 2) == [0, 0, 1, 2, 1, 1]
    assert placed(gpus(2, 2, 1), "pack", 2, 2, 1) == [0, 1, 2]
    assert placed(gpus(2, 2, 1), "pack", 3, 2, 0) is None, "an engine is on one node: 5 GPUs are not enough for 3 x 2"


def test_ranks_that_share_a_copy_stay_on_a_node_if_all_can():
    assert placed(gpus(5, 5), "pack", 2, 1, 8) == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert placed(gpus(5, 5), "pack", 2, 1, 8, group=4) == [0, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    assert placed(gpus(5, 3), "pack", 0, 1, 8, group=4) == [0] * 5 + [1] * 3, "they cannot"
    assert placed(gpus(8, 8), "spread", 8, 1, 8, group=8) == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4, "engines go first"
    assert placed(gpus(8, 8), "spread", 8, 1, 8, group=4) == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4


def test_engines_with_the_ranks_on_their_gpus_are_whole():
    assert placed(gpus(4, 4), "pack", 3, 2, 6, shared=True) == [0, 0, 1]
    assert placed(gpus(4, 4), "spread", 2, 2, 4, shared=True) == [0, 1]
    assert placed(gpus(6, 4, 4), "pack", 4, 2, 8, group=4, shared=True) == [0, 0, 1, 1], "two engines to a copy"
    assert placed(gpus(3, 3), "pack", 1, 4, 4, shared=True) is None


def test_cpus_are_counted_as_ray_counts_them():
    """0.1 + 0.1 + 0.1 is more than 0.3 in floating point, and Ray places it."""
    assert Amount.of({"CPU": 0.3}).number_of(Amount.of({"CPU": 0.1})) == 3
    assert Amount.of({"CPU": 0.29999999999}).cpus == 3000
    assert Amount.of({"CPU": 0.00014, "memory": 7e9, "my_licence": 3}) == Amount(1, 0)


def test_hundred_nodes_take_no_time():
    found = placed(gpus(*[8] * 125), "spread", 250, 2, 500, group=4)
    assert found is not None
    assert Counter(found[:250]) == dict.fromkeys(range(125), 2)
    assert Counter(found[250:]) == dict.fromkeys(range(125), 4)


@examples(50)
@given(clusters(), st.sampled_from(["pack", "spread"]))
def test_no_engine_of_a_lost_node_takes_room_that_a_rank_needs(cluster, strategy):
    engines, ranks, free = cluster
    plan = plan_lost(engines, ranks, free, strategy)
    placed = [[bundle for bundle in kind.indices if bundle in plan] for kind in (engines, ranks)]

    def fit(num_engines, num_ranks):
        return fits(Bundles(engines.size, range(num_engines), 1), Bundles(ranks.size, range(num_ranks), 1), free)

    assert len(placed[1]) == max(n for n in range(len(ranks.indices) + 1) if fit(0, n)), (
        "as many as fit without engines"
    )
    all_ranks = len(placed[1]) == len(ranks.indices)
    most = max(n for n in range(len(engines.indices) + 1) if fit(n, len(placed[1]))) if all_ranks else 0
    assert len(placed[0]) == most
    for node, has in enumerate(free):
        here = [kind.size for kind in (engines, ranks) for bundle in kind.indices if plan.get(bundle) == node]
        assert has.holds(Amount(sum(size.cpus for size in here), sum(size.gpus for size in here)))


def test_ranks_of_a_lost_node_come_before_engines_by_hand():
    engines, ranks = Bundles(Amount(1, 1), [1], 1), Bundles(Amount(1, 1), [2], 1)
    assert plan_lost(engines, ranks, [Amount(9, 1)], "pack") == {2: 0}
    assert plan_lost(engines, ranks, [Amount(9, 0)], "pack") == {}
    assert plan_lost(engines, ranks, [Amount(9, 1), Amount(9, 1)], "pack") == {1: 0, 2: 1}


def test_without_a_number_all_ranks_are_a_group_by_hand():
    plan = layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=False)
    free = [Amount(90_000, 30_000), Amount(90_000, 20_000)]
    assert plan_nodes(*bundles_of(plan, None), free, "pack") == {0: 0, 1: 0, 2: 1, 3: 1}
    assert plan_nodes(*bundles_of(plan, 1), free, "pack") == {0: 0, 1: 0, 2: 0, 3: 1}
    narrow = [Amount(90_000, 10_000)] * 4
    assert plan_nodes(*bundles_of(plan, None), narrow, "pack") == {0: 0, 1: 1, 2: 2, 3: 3}, "no node has room for both"
    shared = layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=True)
    assert plan_nodes(*bundles_of(shared, None), free[::-1], "pack") == {0: 0, 1: 0}
    assert [bundles.group for bundles in bundles_of(shared, None)] == [2, 2]
    assert bundles_of(layout(2, 1, 0, cpus=0.5, on_gpu=True, shared=False), None)[0].group == 1, "an evaluation"
