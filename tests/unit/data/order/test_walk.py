"""Each prompt of the training files gets its turn, whatever the sizes of rounds are."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mars.data.order.stream import PromptStream
from mars.data.order.walk import Place, walk
from tests.builders import make_prompt

PROMPTS = tuple(make_prompt(f"p{i}") for i in range(5))


def test_a_prompt_that_a_round_has_from_the_epoch_before_comes_first_in_the_next():
    """Epochs a b c d e and b e a c d, in rounds of 3: the second round has d and e, meets b, then e again, and a."""
    a, b, c, d, e = (make_prompt(name) for name in "abcde")

    class Epochs:
        def __len__(self):
            return 5

        def batch(self, step):
            return ([a, b, c, d, e, b, e, a, c, d] * 2)[step : step + 1]

    one, place = walk(Epochs(), Place(), 3, ())
    assert (one, place) == ([a, b, c], Place(3))
    two, place = walk(Epochs(), place, 4, ())
    assert (two, place) == ([d, e, b, a], Place(8, (6,)))
    three, place = walk(Epochs(), place, 3, ())
    assert (three, place) == ([e, c, d], Place(10))
    assert walk(Epochs(), Place(8, (6,)), 3, {"e"}) == ([c, d, a], Place(11))
    assert walk(Epochs(), Place(8, (6, 3)), 1, ()) == ([e], Place(8, (3,)))


@given(st.integers(2, 13), st.lists(st.integers(0, 13), min_size=40, max_size=40), st.integers(0, 9))
def test_no_turn_of_a_prompt_is_lost_where_epochs_meet(size, counts, seed):
    """After any rounds the turns taken and those that wait are the stream so far, and few wait."""
    stream = PromptStream([make_prompt(f"p{i}") for i in range(size)], 1, seed, shuffle=True)
    place, taken = Place(), Counter[str]()
    for count in counts:
        prompts, place = walk(stream, place, min(count, size), ())
        ids = [prompt.prompt_id for prompt in prompts]
        assert len(set(ids)) == len(ids) == min(count, size)
        taken.update(ids)
        waiting = Counter(stream.batch(position)[0].prompt_id for position in place.waiting)
        assert taken + waiting == Counter(stream.batch(position)[0].prompt_id for position in range(place.position))
        assert len(place.waiting) <= 2 * size


def test_a_round_of_all_prompts_lets_none_wait():
    stream = PromptStream(PROMPTS, 1, 0, shuffle=True)
    for left_out in ((), ("p1", "p2", "p3", "p4")):
        found, place = walk(stream, Place(3), 6, left_out)
        assert {prompt.prompt_id for prompt in found} == {p.prompt_id for p in PROMPTS} - {*left_out}
        assert place == Place(13)
