"""Requests divided over engines by expected tokens."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from mars.rollout.balance import Balancer, split_by_tokens
from mars.types import RolloutRequest, Sampling


def request(prompt_id, prompt_tokens=1, samples=1, longest=10):
    return RolloutRequest(prompt_id, None, (1,) * prompt_tokens, (), samples, 0, Sampling(1.0, 1.0, 0, longest))


def loads(shares, tokens):
    return [sum(tokens[i] for i in share) for share in shares]


def test_the_largest_go_first_by_hand():
    requests = [request(name) for name in "abcde"]
    assert split_by_tokens(requests, [3, 5, 3, 4, 3], 2, {}) == [[1, 2], [0, 3, 4]]  # 5+3 and 4+3+3
    assert split_by_tokens(requests, [3, 5, 3, 4, 3], 1, {}) == [[0, 1, 2, 3, 4]]
    assert split_by_tokens([], [], 3, {}) == [[], [], []]
    assert split_by_tokens(requests[:1], [3], 3, {}) == [[0], [], []]


def test_the_views_of_a_prompt_count_and_go_together_by_hand():
    """a takes 4 + 2, b 5, c 2 tokens."""
    requests = [request(name) for name in "abac"]
    assert split_by_tokens(requests, [4, 5, 2, 2], 2, {}) == [[0, 2], [1, 3]]


def test_a_prompt_whose_images_were_read_ahead_stays_where_they_are():
    requests = [request(name) for name in "abcd"]
    assert split_by_tokens(requests, [9, 1, 1, 1], 2, {"b": 0, "gone": 1}) == [[1, 2, 3], [0]]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 50)), max_size=12),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), max_size=2),
)
@settings(max_examples=200, deadline=None)
def test_every_request_goes_once_with_the_others_of_its_prompt(drawn, num_engines, homes):
    requests, tokens = [request(name) for name, _ in drawn], [number for _, number in drawn]
    homes = {name: engine for name, engine in homes.items() if engine < num_engines}
    shares = split_by_tokens(requests, tokens, num_engines, homes)
    assert len(shares) == num_engines
    assert sorted(i for share in shares for i in share) == list(range(len(requests)))
    assert all(share == sorted(share) for share in shares)
    where = {}
    for engine, share in enumerate(shares):
        for i in share:
            assert where.setdefault(requests[i].prompt_id, engine) == engine
    assert all(where[name] == engine for name, engine in homes.items() if name in where)
    assert split_by_tokens(requests, tokens, num_engines, homes) == shares


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_the_fullest_engine_has_at_most_a_third_more_than_in_the_best_division(tokens, num_engines):
    requests = [request(f"p{i}") for i in range(len(tokens))]
    best = min(
        max(sum(t for t, e in zip(tokens, engines, strict=True) if e == engine) for engine in range(num_engines))
        for engines in product(range(num_engines), repeat=len(tokens))
    )
    fullest = max(loads(split_by_tokens(requests, tokens, num_engines, {}), tokens))
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


def test_the_length_of_a_response_is_that_of_the_last_call():
    """Before the first call 10 tokens each: a takes 1 + 4 x 10, b and c 20 + 10. Then 1 token: 5, 21 and 21."""
    requests = [request("a", 1, samples=4), request("b", 20), request("c", 20)]
    balancer = Balancer(lambda request: len(request.prompt_token_ids), 2)
    assert balancer.split(requests) == [[0], [1, 2]]
    balancer.seen(num_responses=0, num_tokens=0)
    assert balancer.split(requests) == [[0], [1, 2]]
    balancer.seen(num_responses=6, num_tokens=6)
    assert balancer.split(requests) == [[0, 1], [2]]
    balancer.seen(num_responses=1, num_tokens=1000)  # of a call that may answer at greater length
    assert balancer.split(requests) == [[0], [1, 2]]


def test_a_call_follows_the_hint_before_it_and_a_new_hint_replaces_the_last():
    balancer = Balancer(lambda request: len(request.prompt_token_ids), 2)
    hinted = [request("a", 30), request("b", 20), request("c", 15)]
    assert balancer.split_ahead(hinted) == [[0], [1, 2]]
    assert balancer.split(hinted[1:]) == [[], [0, 1]], "a was carried over; b and c stay where their images are"
    assert balancer.split([request("x", 3), *hinted[1:]]) == [[0], [1, 2]]
    assert balancer.split_ahead(hinted[1:]) == [[0], [1]]
