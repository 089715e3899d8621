import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.types import Message, Prompt
from tests.examples import examples


def prompts(count):
    return [Prompt(str(i), f"f:{i}", "d", (Message("user", "q"),), (), "t") for i in range(count)]


def ids(batch):
    return [int(prompt.prompt_id) for prompt in batch]


def test_without_shuffling_the_order_is_the_files():
    stream = PromptStream(prompts(5), prompts_per_step=2, seed=0, shuffle=False)
    assert [ids(stream.batch(step)) for step in range(5)] == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert len(stream) == 5


@examples(150)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**40), st.booleans())
def test_every_epoch_has_every_prompt_once_and_no_batch_has_one_twice(size, batch, seed, shuffle):
    if batch > size:
        return
    stream = PromptStream(prompts(size), batch, seed, shuffle)
    steps = -(-5 * size // batch)
    batches = [ids(stream.batch(step)) for step in range(steps)]
    assert all(len(set(one)) == batch for one in batches)
    order = [i for one in batches for i in one]
    for epoch in range(5):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@examples(60)
@given(st.integers(3, 30), st.integers(1, 30), st.integers(0, 1000), st.lists(st.integers(0, 300), max_size=6))
def test_a_batch_depends_on_its_number_alone(size, batch, seed, steps):
    batch = min(batch, size)
    in_order = PromptStream(prompts(size), batch, seed, True)
    expected = [ids(in_order.batch(step)) for step in range(301)]
    for step in steps:  # a fresh stream each time: nothing was asked before
        assert ids(PromptStream(prompts(size), batch, seed, True).batch(step)) == expected[step]


def test_seeds_and_epochs_differ_and_machines_do_not():
    stream = PromptStream(prompts(12), 12, 7, True)
    assert ids(stream.batch(0)) != ids(stream.batch(1))
    assert ids(stream.batch(0)) != ids(PromptStream(prompts(12), 12, 8, True).batch(0))
    # Written down once: the order must never change with a library's version, or runs could not be resumed.
    assert ids(stream.batch(0)) == FIRST_ORDER


def test_positions_are_uniform():
    """Over 400 seeds each of 8 prompts stands first about 50 times (standard deviation 6.6)."""
    firsts = [ids(PromptStream(prompts(8), 1, seed, True).batch(0))[0] for seed in range(400)]
    assert all(20 <= firsts.count(i) <= 80 for i in range(8))


def test_too_few_prompts_and_negative_steps():
    with pytest.raises(ConfigError, match=r"data\.prompts_per_step.*got 4 with 3 prompts"):
        PromptStream(prompts(3), 4, 0, True)
    with pytest.raises(ValueError, match="step"):
        PromptStream(prompts(3), 2, 0, True).batch(-1)


FIRST_ORDER = [7, 11, 6, 3, 8, 10, 1, 4, 2, 5, 0, 9]
