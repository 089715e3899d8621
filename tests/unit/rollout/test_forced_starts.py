"""Responses with a given start: what the engine is asked, and what comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mars.answers.record import FORCED, answers_of, reward_input
from mars.data.prompts.views import anchor_views, render_view
from mars.errors import ConfigError, DataError
from mars.rollout.collect import collect, score_stream
from mars.rollout.engine import UnreadableRequest
from mars.rollout.forced_starts import ForcedStarts, StartOfSource, start_of_sources
from mars.rollout.metrics import rollout_metrics
from mars.rollout.plan import RolloutPlan
from mars.rollout.scripted import ScriptedEngine
from mars.types import ImageRef, RewardResult, Sampling
from tests.builders import completions, make_prompt

IMAGES = (ImageRef("a.png", (28, 28)), ImageRef("b.png", (56, 56)))
SAMPLING = Sampling(1.0, 1.0, 0, 8)
EOS = 9
STARTS = {"visible": (50, 51), "infrared": (50, 52, 53)}


def encode(prompt, view):
    images = render_view(prompt, view, "single")[1]
    return (1, *(7,) * len(images)), images


def plan():
    views = lambda prompt: anchor_views(prompt, "forced_source")  # noqa: E731
    return RolloutPlan(2, 2, SAMPLING, SAMPLING, views, encode, seed=3, start_of_source=STARTS.__getitem__)


@pytest.fixture
def prompt():
    return make_prompt("p", IMAGES, ("visible", "infrared"))


def test_requests_show_all_images_and_have_an_identity_of_their_own(prompt):
    multi, *anchors = plan().requests([prompt], 1)
    assert [request.view for request in anchors] == [("visible",), ("infrared",)]
    assert [request.response_start for request in (multi, *anchors)] == [(), *STARTS.values()]
    assert {(request.prompt_token_ids, request.images) for request in (multi, *anchors)} == {((1, 7, 7), IMAGES)}
    assert len({request.key for request in (multi, *anchors)}) == 3
    assert len({request.seed for request in (multi, *anchors)}) == 3
    assert [request.response_start for request in plan().of_probes().requests([prompt], 1)] == [()]


def test_the_engine_goes_on_behind_the_start_and_the_response_has_it(prompt):
    seen = []

    def script(request, k):
        seen.append((request.prompt_token_ids, request.sampling.max_response_tokens, request.response_start))
        return (20,) * (3 + 9 * k)  # the second is cut

    multi, visible, infrared = completions(ForcedStarts(ScriptedEngine(script, [EOS])), plan().requests([prompt], 1))
    assert seen[::2] == [((1, 7, 7), 8, ()), ((1, 7, 7, 50, 51), 6, ()), ((1, 7, 7, 50, 52, 53), 5, ())]
    assert [one.token_ids for one in multi] == [(20,) * 3, (20,) * 8]
    assert [one.token_ids for one in visible] == [(50, 51, 20, 20, 20), (50, 51, *(20,) * 6)]
    assert [one.token_ids for one in infrared] == [(50, 52, 53, 20, 20, 20), (50, 52, 53, *(20,) * 5)]
    assert all(len(one.token_ids) <= SAMPLING.max_response_tokens for one in (*multi, *visible, *infrared))
    assert visible[0].logprobs == (0.0,) * 5


def test_requests_that_have_not_come_yet_and_unreadable_ones_pass(prompt):
    class Engine:
        def generate(self, requests):
            number = 0
            for request in requests:
                if request is not None:
                    yield [UnreadableRequest(number, "gone")]
                    number += 1

        def prefetch(self, requests):
            self.hint = requests

        def counts(self):
            return "counts"

    engine = Engine()
    forced, requests = ForcedStarts(engine), plan().requests([prompt], 1)
    assert list(forced.generate([None, requests[0], None, requests[1]])) == [
        [UnreadableRequest(0, "gone")],
        [UnreadableRequest(1, "gone")],
    ]
    forced.prefetch(requests)
    assert [request.prompt_token_ids for request in engine.hint] == [
        (1, 7, 7),
        (1, 7, 7, 50, 51),
        (1, 7, 7, 50, 52, 53),
    ]
    assert forced.counts() == "counts"


def test_the_whole_response_is_scored_in_the_frame_of_the_multi_view(prompt):
    frames = lambda prompt, view: ((1, 1), IMAGES[view == ("infrared",)].size)  # noqa: E731
    asked = []

    class Scorer:
        def score(self, items):
            asked.extend(items)
            return [RewardResult(1.0, 1.0, {}) for _ in asked]

    requests = plan().requests([prompt], 1)
    engine = ForcedStarts(ScriptedEngine(lambda request, k: (20, EOS), [EOS]))
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    scored = score_stream(
        [prompt], requests, engine.generate(requests), decode=decode, frames=frames, scorer=Scorer(), step=1
    )
    infrared = [item for item in asked if item.view == ("infrared",)]
    assert [(item.response, item.images, item.response_size) for item in infrared] == [
        ("50 52 53 20 9", IMAGES, (28, 28))
    ] * 2
    (item,) = collect([prompt], requests, scored.samples)
    answers = answers_of([item], 1, frames=frames, prompt_length=lambda request: 3)
    # Scored again, they are scored as in the run, and they are not mistaken for answers to one image alone.
    metrics = rollout_metrics([item], lambda request: 3)
    # The engine sampled 2 tokens of each of 6 responses; 2 or 3 more were given.
    assert (metrics["rollout/tokens"], metrics["anchor/tokens"]) == (12, 8)
    rescored = {(answer.view, answer.sample): answer.reward_input for answer in answers}
    assert sorted(map(repr, rescored.values())) == sorted(map(repr, asked))
    assert [answer.extra for answer in answers] == [None, None, FORCED, FORCED, FORCED, FORCED]
    assert {answer.response_size for answer in answers} == {(28, 28)}
    assert reward_input(prompt, ("infrared",), "", frames).response_size == (56, 56)  # a mono view stays one


def test_a_start_must_leave_a_token_to_sample(prompt):
    encode = lambda text: (*map(ord, text), EOS)  # noqa: E731
    assert StartOfSource("<{source}>", encode, 6)("abc") == tuple(map(ord, "<abc>"))
    wrong = r"anchor\.forced_start: must have 1 to 4 tokens, .* got 5; write another text"
    with pytest.raises(ConfigError, match=wrong):
        StartOfSource("<{source}>", encode, 5)("abc")
    with pytest.raises(ConfigError, match="got 9"):
        start_of_sources("{source}", encode, SAMPLING, [make_prompt("p", IMAGES, ("a", "long_name"))])
    assert start_of_sources(None, encode, SAMPLING, []) is None
    request = replace(plan().requests([prompt], 1)[1], sampling=replace(SAMPLING, max_response_tokens=2))  # a ramp
    with pytest.raises(ConfigError, match="must have 1 to 1 tokens"):
        ForcedStarts(ScriptedEngine(None, [])).prefetch([request])


def test_a_start_that_would_become_a_special_token_is_refused():
    def encode(text):
        raise DataError("response: <|image_pad|> is a special token")

    with pytest.raises(
        ConfigError, match=r"anchor\.forced_start: response: <\|image_pad\|> .* got '<\|image_pad\|> a'; give another"
    ):
        StartOfSource("<|image_pad|> {source}", encode, 8)("a")
