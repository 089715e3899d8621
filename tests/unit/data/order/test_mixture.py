"""Weighted mixtures: shares, epochs of each set, no prompt twice in a step, the same after a restart."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.order.mixture import ChangingWeights, PromptMixture
from mars.errors import ConfigError
from mars.types import Message, Prompt
from tests.examples import examples


def prompts(name, number):
    return [Prompt(f"{name}{i}", f"{name}.jsonl:{i}", name, (Message("user", "?"),), (), "x") for i in range(number)]


def ids(batch):
    return [prompt.prompt_id for prompt in batch]


def test_shares_by_hand():
    mixture = PromptMixture([prompts("a", 10), prompts("b", 4)], [3, 1], 6, 0, shuffle=False)
    # 4.5 and 1.5 seats: the first set is owed as much as the second, and comes first.
    counts = [Counter(prompt.data_source for prompt in mixture.batch(step)) for step in range(4)]
    assert counts == [{"a": 5, "b": 1}, {"a": 4, "b": 2}] * 2 or counts == [{"a": 4, "b": 2}, {"a": 5, "b": 1}] * 2
    assert len(mixture) == 14
    flat = [name for step in range(2) for name in ids(mixture.batch(step)) if name.startswith("b")]
    assert flat == ["b0", "b1", "b2"]


def test_sets_are_spread_over_a_batch():
    mixture = PromptMixture([prompts("a", 30), prompts("b", 30), prompts("c", 30)], [2, 1, 1], 16, 3, shuffle=True)
    batch = mixture.batch(0)
    for quarter in range(4):
        assert Counter(p.data_source for p in batch[4 * quarter : 4 * quarter + 4]) == {"a": 2, "b": 1, "c": 1}


@examples(60)
@given(st.data())
def test_shares_epochs_and_no_repetition(data):
    weights = data.draw(st.lists(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1, 2, 7.5]), min_size=1, max_size=4))
    seats, seed, steps = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 99)), 25
    sizes = [data.draw(st.integers(seats + 2, 30)) for _ in weights]
    sets = [prompts("abcd"[i], size) for i, size in enumerate(sizes)]
    mixture = PromptMixture(sets, weights, seats, seed, shuffle=True)
    dealt = {i: [] for i in range(len(sets))}
    exact = [Fraction(str(weight)) for weight in weights]
    for step in range(steps):
        batch = ids(mixture.batch(step))
        assert len(batch) == len(set(batch)) == seats
        for name in batch:
            dealt["abcd".index(name[0])].append(name)
        for i, names in dealt.items():
            wanted = exact[i] / sum(exact) * seats * (step + 1)
            assert abs(len(names) - wanted) < len(sets)
    for i, names in dealt.items():
        # After n epochs' worth of a set, no prompt is ahead of another by more than what one step may have moved.
        counts = Counter(names)
        most, least = max(counts.values(), default=0), min((counts[p.prompt_id] for p in sets[i]), default=0)
        assert most - least <= 2
        if len(names) >= sizes[i]:
            assert len(set(names[: sizes[i]])) >= sizes[i] - seats
    again = PromptMixture(sets, weights, seats, seed, shuffle=True)
    assert ids(again.batch(steps - 1)) == ids(mixture.batch(steps - 1))
    assert ids(again.batch(0)) == ids(mixture.batch(0))


def test_an_epoch_deals_every_prompt_once():
    mixture = PromptMixture([prompts("a", 12), prompts("b", 12)], [1, 1], 8, 5, shuffle=True)
    for epoch in range(3):
        names = [name for step in range(3 * epoch, 3 * epoch + 3) for name in ids(mixture.batch(step))]
        assert len(set(names)) == 24
    orders = [tuple(ids(mixture.batch(step))) for step in (0, 3)]
    assert orders[0] != orders[1]
    other = PromptMixture([prompts("a", 12), prompts("b", 12)], [1, 1], 8, 6, shuffle=True)
    assert ids(other.batch(0)) != ids(mixture.batch(0))


def test_a_set_too_small_for_its_share_is_refused():
    sets = [prompts("a", 10), prompts("b", 3)]
    with pytest.raises(ConfigError, match=r"data\.weights.*got 1.0 for a file of 3 prompts, of which up to 4"):
        PromptMixture(sets, [1.0, 1.0], 8, 0, shuffle=True)
    PromptMixture(sets, [2.0, 1.0], 9, 0, shuffle=True)
    with pytest.raises(ConfigError, match=r"data\.prompts_per_step"):
        PromptMixture(sets, [2.0, 1.0], 14, 0, shuffle=True)
    with pytest.raises(ValueError, match="step"):
        PromptMixture(sets, [2.0, 1.0], 9, 0, shuffle=True).batch(-1)


# --- weights that change


def changing(*weights_by_batch):
    """The last ones stay."""
    columns = list(zip(*weights_by_batch, strict=True))
    at = lambda batch: weights_by_batch[min(batch, len(weights_by_batch) - 1)]  # noqa: E731
    return ChangingWeights(at, [min(column) for column in columns], [max(column) for column in columns])


def test_changing_shares_by_hand():
    """Of 4 places: 3 + 1, then 2 + 2, then 1 + 3 from there on."""
    sets = [prompts("a", 12), prompts("b", 12)]
    mixture = PromptMixture(sets, changing([3, 1], [1, 1], [1, 3]), 4, 0, shuffle=True)
    counts = [Counter(prompt.data_source for prompt in mixture.batch(step)) for step in range(4)]
    assert counts == [{"a": 3, "b": 1}, {"a": 2, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 3}]


@examples(80)
@given(st.data())
def test_changing_shares_add_up_and_do_not_drift(data):
    num_sets, seats = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    weight = st.floats(0.05, 8)
    steps = data.draw(st.lists(st.lists(weight, min_size=num_sets, max_size=num_sets), min_size=1, max_size=12))
    sets = [prompts("abcd"[i], seats + 2) for i in range(num_sets)]
    mixture, again = (PromptMixture(sets, changing(*steps), seats, 5, shuffle=True) for _ in range(2))
    again.batch(len(steps) - 1)  # a resumed run asks for later batches first
    given_out, wanted = Counter(), [0.0] * num_sets
    for step, weights in enumerate(steps):
        batch = ids(mixture.batch(step))
        assert len(set(batch)) == len(batch) == seats
        assert ids(again.batch(step)) == batch
        given_out.update(name[0] for name in batch)
        for i, one in enumerate(weights):
            wanted[i] += seats * one / sum(weights)
            assert abs(given_out["abcd"[i]] - wanted[i]) < num_sets


def test_a_set_must_have_prompts_for_the_largest_share_that_it_may_get():
    """a: at most 6 / (6 + 2) of 8 places, and one that rounding may add."""
    weights = changing([2, 6], [6, 2])
    PromptMixture([prompts("a", 7), prompts("b", 7)], weights, 8, 0, shuffle=True)
    with pytest.raises(ConfigError, match=r"got 6 for a file of 6 prompts, of which up to 7 would be in a step"):
        PromptMixture([prompts("a", 6), prompts("b", 7)], weights, 8, 0, shuffle=True)
