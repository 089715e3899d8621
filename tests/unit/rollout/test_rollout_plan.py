from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.prompts.views import anchor_views, render_view
from mars.rollout.plan import RolloutPlan
from mars.rollout.seeds import request_seed
from mars.types import ImageRef, Sampling
from tests.builders import make_prompt
from tests.examples import examples

POLICY = Sampling(1.0, 0.9, 0, 16)
GREEDY = Sampling(0.0, 1.0, 0, 16)
IMAGES = [ImageRef(f"{i}.png", (28, 28)) for i in range(3)]


def plan(kind="mono", layout="single", anchor_sampling=POLICY, seed=1):
    def encode(prompt, view):
        messages, images = render_view(prompt, view, layout)
        return tuple(map(ord, "".join(message.text for message in messages))), images

    return RolloutPlan(6, 2, POLICY, anchor_sampling, partial(anchor_views, anchor_kind=kind), encode, seed)


def text(request):
    return "".join(map(chr, request.prompt_token_ids))


@pytest.fixture
def prompts():
    return [make_prompt(f"p{k}", IMAGES[:k], [f"cam{i}" for i in range(k)]) for k in (2, 1, 3)]


def test_every_prompt_asks_for_its_multi_view_and_right_after_it_for_its_anchors(prompts):
    requests = plan().requests(prompts, 1)
    assert [(r.prompt_id, r.view, r.num_samples) for r in requests] == [
        ("p2", None, 6), ("p2", ("cam0",), 2), ("p2", ("cam1",), 2),
        ("p1", None, 6),
        ("p3", None, 6), ("p3", ("cam0",), 2), ("p3", ("cam1",), 2), ("p3", ("cam2",), 2),
    ]  # fmt: skip
    assert [r.images for r in requests[:3]] == [tuple(IMAGES[:2]), (IMAGES[0],), (IMAGES[1],)]
    for request in requests:
        assert text(request).count("<image>") == len(request.images)


def test_all_but_one_and_none(prompts):
    views_of = [r.view for r in plan("all_but_one").requests(prompts[2:], 1)]
    assert views_of == [None, ("cam1", "cam2"), ("cam0", "cam2"), ("cam0", "cam1")]
    assert [r.view for r in plan("none").requests(prompts, 1)] == [None, None, None]


def test_the_repeated_layout_keeps_the_text_and_fills_every_slot(prompts):
    multi, first, second = plan(layout="repeated").requests(prompts[:1], 1)
    assert multi.prompt_token_ids == first.prompt_token_ids == second.prompt_token_ids
    assert first.images == (IMAGES[0], IMAGES[0])
    assert second.images == (IMAGES[1], IMAGES[1])


def test_anchors_may_be_greedy_while_the_multi_rollouts_are_sampled(prompts):
    for request in plan(anchor_sampling=GREEDY).requests(prompts, 1):
        assert request.sampling == (POLICY if request.view is None else GREEDY)
    assert {r.sampling for r in plan().requests(prompts, 1)} == {POLICY}


def test_seeds_differ_by_prompt_view_step_and_run_and_are_the_same_again(prompts):
    made = [
        request.seed
        for run_seed in (0, 1)
        for step in (1, 2, 12)
        for request in plan(seed=run_seed).requests(prompts, step)
    ]
    assert len(set(made)) == len(made)
    assert plan().requests(prompts, 1) == plan().requests(prompts, 1)
    # The same request whatever else is asked for in the step.
    assert plan().requests(prompts[::-1], 1)[0] == plan().requests(prompts, 1)[4]
    assert plan("none").requests(prompts, 1)[0] == plan().requests(prompts, 1)[0]
    assert replace(plan(), multi_samples=9).requests(prompts, 1)[0].seed == plan().requests(prompts, 1)[0].seed


keys = st.tuples(
    st.integers(0, 2**32), st.integers(0, 10**6), st.text(max_size=20),
    st.none() | st.lists(st.text(max_size=6), min_size=1, max_size=3).map(tuple),
)  # fmt: skip


@given(keys, keys)
@examples(200)
def test_other_keys_have_other_seeds(one, other):
    """Also where a naive joining of the parts would read the same, e.g. views ("a", "b") and ("a, b",)."""
    assert 0 <= request_seed(*one) < 2**48
    assert (request_seed(*one) == request_seed(*other)) is (one == other)


def test_the_samples_of_all_requests_draw_with_different_seeds():
    drawn = [request_seed(0, step, f"p{i}", None) + k for step in range(5) for i in range(500) for k in range(16)]
    assert len(set(drawn)) == len(drawn)
