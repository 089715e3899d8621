"""Extra requests: names that are there twice, what `ramps` change, and the frames of boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mars.answers.record import answer_of, reward_input
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import ImageBudget
from mars.errors import ConfigError
from mars.extra_facts import ExtraFacts
from mars.hooks.requests import Injected, accuracy_about, wrong_type
from mars.rollout.collect import score_stream
from mars.rollout.engine import FinishedSample
from mars.types import Completion, ImageRef, Message, RewardResult, RolloutGroup, RolloutRequest, Sampling
from tests.builders import make_prompt, make_rollouts, with_extra
from tests.fakes.step import IMAGE, one_step, parts
from tests.unit.hooks.test_extra_requests import MULTI, asking, extra

PROMPT = make_prompt("p0", [IMAGE], extra_info={"name": "p0"})
TABLE = {("p0", None, k): 0.25 * k for k in range(4)}


class Asks:
    def __init__(self, before=(), after=()):
        self._before, self._after = before, after

    def before(self, prompt, facts):
        return self._before

    def after(self, item, facts):
        return self._after


TOO_LONG = extra("special", name="told")
ONE, GIVEN = extra(name="told"), Injected("told", "5", None)


@pytest.mark.parametrize(
    ("before", "after"),
    [((GIVEN, GIVEN), ()), ((ONE, GIVEN), ()), ((), (ONE, ONE)), ((ONE,), (ONE,)), ((TOO_LONG,), (ONE,))],
)  # fmt: skip
def test_two_requests_of_one_name_end_the_run_with_the_row(before, after):
    made = asking(parts(TABLE, anchor="none"), Asks(before, after))
    with pytest.raises(
        ConfigError, match=r"^recipe\.requests: rows\.jsonl:p0: two requests told of view None about None; give each"
    ):
        one_step(made, [PROMPT])


def test_one_name_may_be_there_for_each_rollout():
    after = [replace(ONE, name="blind", about=k) for k in range(4)]
    result = one_step(asking(parts(TABLE, anchor="none"), Asks((), after)), [PROMPT])
    assert len(result.rollouts[0].extras) == 4


def test_a_response_with_a_marker_leaves_its_request_out_if_it_cannot_be_encoded():
    """The run does not end because a model wrote "<image>"; the encoder of the fakes takes it as text."""
    made = asking(parts(TABLE, anchor="none"), Asks((), (extra("said <image>", name="blind"),)))
    assert one_step(made, [PROMPT]).rollouts[0].extras[0].request.num_samples == 1
    fewer = extra(images=(IMAGE,), messages=(Message("user", "?"),))
    with pytest.raises(ConfigError, match="0 <image> for 1 images"):
        one_step(asking(parts(TABLE, anchor="none"), Asks((), (fewer,))), [PROMPT])


def test_a_ramp_of_the_length_reaches_extra_requests_and_given_texts():
    longer = replace(MULTI, max_response_tokens=16)
    asked = (extra(name="as_multi"), extra(name="longer", sampling=longer), Injected("told", "5" * 8, None))
    plan = asking(parts({}), Asks(asked)).plan.at({"rollout.max_response_tokens": 8.0})
    planned = plan.planned([PROMPT], 1)
    lengths = {r.extra and r.extra.name: r.sampling.max_response_tokens for r in planned.requests}
    assert lengths == {None: 8, "as_multi": 8, "longer": 16}
    assert [request.extra and request.extra.name for request in planned.left_out] == ["told"]


def test_guests_that_are_in_no_pool_leave_the_others_as_they_are():
    """Multi 0, 0.25, 0.5, 0.75, mean 0.375. Outside of the pool a guest of 0.4, a text of 2 and one of 0.375."""
    guest = extra(name="noisy", role="guest", in_pool=False)
    texts = Injected("told", "5", None, in_pool=False), Injected("given", "5", 0.375, in_pool=False)

    def step(*asked):
        made = asking(parts(TABLE, anchor="none"), Asks(asked))
        result = one_step(made, [PROMPT])
        return result.metrics, [response.advantage for response in made.trainer.batches[0].prompts[0].responses]

    metrics, advantages = step(guest, *texts)
    without, alone = step()
    assert advantages[:4] == alone
    assert (advantages[4] > 0, advantages[5] > 1, advantages[6]) == (True, True, 0)
    for name in ("critic/rewards/mean", "critic/rewards/max", "reward/frac_zero_std"):
        assert metrics[name] == without[name]


def test_the_accuracy_of_what_was_asked_about_each_rollout():
    """Two multi rollouts, one asked about twice; an anchor; a guest has the same number as the first rollout."""
    item = make_rollouts("x", [0.0, 0.0], s0=[0.0])
    half = RewardResult(0.5, 0.5, {})
    item = with_extra(item, "blind", "signal", [half, half, None], about=0)
    item = with_extra(item, "other", "signal", [half], about=1)
    item = with_extra(item, "told", "guest", [1.0])
    anchor = item.extras[0].request
    anchor = replace(anchor, view=("s0",), extra=replace(anchor.extra, about=0))
    rollouts = tuple(replace(one, view=("s0",)) for one in item.extras[0].rollouts[:1])
    item = replace(item, extras=(*item.extras, RolloutGroup(anchor, rollouts)))
    assert accuracy_about(item, "blind") == [1.0, 0.0, 0.0, 0.5]


# --- frames of boxes

FRAMES = BoxFrames("resized_pixels", ImageBudget(56 * 56, 1280 * 28 * 28, 14, 2))
SCENE, CROP = ImageRef("a.png", (1280, 1024)), ImageRef("crop.png", (280, 280))


def request_of(images, name="crop"):
    facts = ExtraFacts(name, "own_group", "[]")
    return RolloutRequest("p0", None, (1,), images, 1, 0, Sampling(1, 1, 0, 8), facts)


@pytest.mark.parametrize(
    ("sources", "images", "sizes"),
    [
        ([SCENE], (CROP,), ((1280, 1024), (280, 280))),
        ([SCENE, CROP], (CROP, SCENE), ((1280, 1024), (280, 280))),
        ([SCENE], (), ((1280, 1024), (1120, 896))),
        ([], (CROP,), ((280, 280), (280, 280))),
        ([], (), (None, None)),
    ],
)
def test_an_extra_request_is_answered_in_the_frame_of_its_first_image(sources, images, sizes):
    prompt, request = make_prompt("p0", sources), request_of(images)
    item = reward_input(prompt, None, "t", FRAMES, 1, request)
    assert (item.truth_size, item.response_size) == sizes
    completion = Completion((1,), (0.0,), "stop")
    answer = answer_of(0, prompt, request, 0, "t", completion, frames=FRAMES, prompt_length=lambda request: 1)
    assert (answer.truth_size, answer.response_size) == sizes


def test_each_request_of_a_step_is_scored_in_its_own_frame():
    prompt, seen = make_prompt("p0", [SCENE]), []

    class Scorer:
        def score(self, items):
            seen.extend(item.response_size for item in items)
            return [RewardResult(0.0, 0.0, {}) for _ in seen]

    multi = replace(request_of((SCENE,)), extra=None)
    requests = [multi, request_of((CROP,)), request_of((SCENE,), "other")]
    samples = [FinishedSample(i, 0, Completion((1,), (0.0,), "stop")) for i in (0, 1, 2, 1, 0)]
    score_stream([prompt], requests, [samples], decode=lambda ids: "t", frames=FRAMES, scorer=Scorer(), step=1)
    assert seen == [(1120, 896), (280, 280), (1120, 896), (280, 280), (1120, 896)]


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (replace(ONE, name=5), "name=5"),
        (replace(ONE, messages="Is it red?"), "messages='Is it red\\?'"),
        (replace(ONE, messages=({"role": "user"},)), r"the message \{'role': 'user'\}"),
        (replace(ONE, messages=(Message("user", None),)), r"the message Message\(role='user', text=None\)"),
        (replace(ONE, images=("a.png",)), "the image 'a.png'"),
        (replace(ONE, num_samples=None), "num_samples=None"),
        (replace(ONE, truth=3), "truth=3"),
        (replace(ONE, view="s0"), "view='s0'"),
        (replace(ONE, about="first"), "about='first'"),
        (replace(ONE, sampling={"top_p": 1.0}), r"sampling=\{'top_p': 1.0\}"),
        (replace(GIVEN, text=None), "text=None"),
        (replace(GIVEN, score="high"), "score='high'"),
    ],
)
def test_a_request_with_a_value_of_another_type_ends_the_run(asked, wrong):
    with pytest.raises(ConfigError, match=rf"^recipe\.requests: rows\.jsonl:p0: a request has {wrong}; give what"):
        one_step(asking(parts(TABLE, anchor="none"), Asks((asked,))), [PROMPT])


def test_numbers_of_numpy_and_lists_are_right_types():
    one = replace(ONE, num_samples=np.int64(1), about=np.int32(0), messages=[*ONE.messages], images=[])
    assert wrong_type(one) is None
    assert wrong_type(replace(GIVEN, score=np.float32(0.5))) is None
