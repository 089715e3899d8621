"""Requests divided over engines by expected tokens."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from mars.rollout.balance import Balancer, split_by_tokens
from mars.types import RolloutRequest, Sampling
from tests.examples import examples


def request(prompt_id, prompt_tokens=1, samples=1, longest=10):
    return RolloutRequest(prompt_id, None, (1,) * prompt_tokens, (), samples, 0, Sampling(1.0, 1.0, 0, longest))


def loads(shares, tokens):
    return [sum(tokens[i] for i in share) for share in shares]


def test_the_largest_go_first_by_hand():
    requests = [request(name) for name in "abcde"]
    assert split_by_tokens(requests, [3, 5, 3, 4, 3], 2) == [[1, 2], [0, 3, 4]]  # 5+3 and 4+3+3
    assert split_by_tokens(requests, [3, 5, 3, 4, 3], 1) == [[0, 1, 2, 3, 4]]
    assert split_by_tokens([], [], 3) == [[], [], []]
    assert split_by_tokens(requests[:1], [3], 3) == [[0], [], []]


def test_the_views_of_a_prompt_count_and_go_together_by_hand():
    """a takes 4 + 2, b 5, c 2 tokens."""
    requests = [request(name) for name in "abac"]
    assert split_by_tokens(requests, [4, 5, 2, 2], 2) == [[0, 2], [1, 3]]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 50)), max_size=12),
    st.integers(1, 4),
)
@examples(200)
def test_every_request_goes_once_with_the_others_of_its_prompt(drawn, num_engines):
    requests, tokens = [request(name) for name, _ in drawn], [number for _, number in drawn]
    shares = split_by_tokens(requests, tokens, num_engines)
    assert len(shares) == num_engines
    assert sorted(i for share in shares for i in share) == list(range(len(requests)))
    assert all(share == sorted(share) for share in shares)
    where = {}
    for engine, share in enumerate(shares):
        for i in share:
            assert where.setdefault(requests[i].prompt_id, engine) == engine
    assert split_by_tokens(requests, tokens, num_engines) == shares


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 3))
@examples(200)
def test_the_fullest_engine_has_at_most_a_third_more_than_in_the_best_division(tokens, num_engines):
    requests = [request(f"p{i}") for i in range(len(tokens))]
    best = min(
        max(sum(t for t, e in zip(tokens, engines, strict=True) if e == engine) for engine in range(num_engines))
        for engines in product(range(num_engines), repeat=len(tokens))
    )
    fullest = max(loads(split_by_tokens(requests, tokens, num_engines), tokens))
    assert best <= fullest <= (4 / 3 - 1 / (3 * num_engines)) * best + 1e-9


def test_uneven_prompts_are_divided_evenly_and_by_count_they_are_not():
    """Every second prompt shows two images of 1,700 tokens, the others are text. Dealt out in turn, one engine of two
    would get all images: 29,600 of 32,000 tokens."""
    lengths = [3500 if i % 2 == 0 else 100 for i in range(16)]
    requests = [request(f"p{i}", length, samples=8, longest=25) for i, length in enumerate(lengths)]
    tokens = [length + 8 * 25 for length in lengths]
    balancer = Balancer(lambda request: len(request.prompt_token_ids), 2)
    assert loads(balancer.split(requests), tokens) == [16_000, 16_000]
    assert [sum(tokens[first::2]) for first in range(2)] == [29_600, 2_400]


def test_a_response_counts_half_of_what_it_may_have_by_hand():
    """a takes 1 + 4 x 5 = 21, b and c 20 + 5 = 25. Of 2 tokens at most: a takes 5, b and c 21."""
    balancer = Balancer(lambda request: len(request.prompt_token_ids), 2)

    def split(longest):
        return balancer.split([request("a", 1, 4, longest), request("b", 20, 1, longest), request("c", 20, 1, longest)])

    assert split(10) == [[0, 1], [2]]
    assert split(2) == [[0, 1], [2]]
    assert split(30) == [[0], [1, 2]]  # 61, and 35 each


def test_the_division_depends_on_nothing_before_the_call():
    """A resumed run has a new balancer; and what was read ahead goes where its requests will."""
    requests = [request("a", 30), request("b", 20), request("c", 15)]
    used, new = (Balancer(lambda request: len(request.prompt_token_ids), 2) for _ in range(2))
    used.split([request("c", 99), request("x", 3)])
    assert used.split(requests) == new.split(requests) == [[0], [1, 2]]
