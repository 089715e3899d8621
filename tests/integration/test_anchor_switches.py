"""The switches of `anchor` from the configuration to the requests that the engine gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mars.config.load import load_config
from mars.data.prompts.boxes import BoxFrames
from mars.inputs import Inputs
from mars.rollout.scripted import ScriptedEngine
from tests.builders import make_prompt
from tests.fakes.run import parts_of_run
from tests.integration.test_algorithm_pairs import configure
from tests.tiny_world import TinyWorld


@pytest.fixture(scope="module")
def world(tiny):
    return TinyWorld(tiny)


@pytest.fixture
def requests(world, pictures):
    """Settings -> the requests of one prompt with three images."""

    def make(**changes):
        config = configure(world.folder, "grpo", "mono")
        config = config.model_copy(update={"anchor": config.anchor.model_copy(update=changes)})
        inputs = Inputs(world.encoder, world.budget, None, None, BoxFrames("resized_pixels", world.budget), config)
        parts = parts_of_run(config, inputs, ScriptedEngine(None, []), None, None)
        multi, *anchors = parts.plan.requests([make_prompt("p", pictures[:3])], 1)
        assert multi.view is None
        return multi, anchors

    return make


def placeholders(world, request):
    return request.prompt_token_ids.count(world.rules.image_id)


def test_as_shipped_anchors_are_sampled_like_the_multi_rollouts_from_one_image_each(world, requests, pictures):
    shipped = load_config("train", ["data.train_files=[none]"], []).anchor
    multi, anchors = requests(**shipped.model_dump())
    assert [request.view for request in anchors] == [("s0",), ("s1",), ("s2",)]
    assert [request.images for request in anchors] == [(picture,) for picture in pictures[:3]]
    for request in anchors:
        assert request.sampling == multi.sampling
        assert request.num_samples == 1
        assert placeholders(world, request) == 1
    assert (len(multi.images), placeholders(world, multi), multi.num_samples) == (3, 3, 5)


def test_the_public_codes_anchors_are_a_switch(world, requests, pictures):
    multi, anchors = requests(sampling="greedy", image_layout="repeated")
    assert multi.sampling.temperature > 0
    for request, picture in zip(anchors, pictures[:3], strict=True):
        assert request.sampling == replace(multi.sampling, temperature=0.0, top_p=1.0)
        assert request.images == (picture,) * 3
        assert request.prompt_token_ids == multi.prompt_token_ids


def test_samples_and_views_are_what_is_asked_for(requests):
    multi, anchors = requests(samples_per_view=4)
    assert [request.num_samples for request in anchors] == [4, 4, 4]
    assert multi.num_samples == 5
    assert [request.view for request in requests(kind="all_but_one")[1]] == [("s1", "s2"), ("s0", "s2"), ("s0", "s1")]
    assert requests(kind="none")[1] == []
