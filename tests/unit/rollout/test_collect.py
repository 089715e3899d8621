from __future__ import annotations

import random
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.extra_facts import ExtraFacts
from mars.rollout.collect import ScoredSample, collect, score_stream
from mars.rollout.engine import EngineCounts, FinishedSample, UnreadableRequest
from mars.rollout.metrics import engine_metrics, processed_tokens, rollout_metrics
from mars.rollout.scripted import ScriptedEngine, random_script
from mars.types import Completion, ImageRef, RewardResult, RolloutRequest, Sampling, WeightUpdate
from tests.builders import completions, make_prompt, make_rollouts
from tests.examples import examples
from tests.fakes.engine import RecordingEngine

SAMPLING = Sampling(1.0, 1.0, 0, 6)
IMAGE = ImageRef("a.png", (28, 28))
EOS = 0


class Echo:
    """Scores what it was given, and remembers it."""

    def __init__(self):
        self.items = []

    def score(self, items):
        self.items = list(items)
        failed = [i.response == "fail" for i in self.items]
        return [
            RewardResult(float(n), 0.5, {"format": float(n)}, "raised" if bad else None) for n, bad in enumerate(failed)
        ]


def request(prompt_id, view, num_samples):
    return RolloutRequest(prompt_id, view, (1, 2, 3), (IMAGE,), num_samples, 0, SAMPLING)


@pytest.fixture
def prompts():
    return [make_prompt("x", [IMAGE] * 2, truth="tx"), make_prompt("y", [IMAGE], truth="ty", extra_info={"n": 1})]


def gather(prompts, requests, decode=lambda ids: "".join(map(str, ids)), scorer=None):
    engine = ScriptedEngine(lambda r, k: (*(k + 1 for _ in range(k + 1)), EOS), [EOS])
    scored = score_stream(
        prompts, requests, engine.generate(requests), decode=decode, frames=lambda p, v: (None, (5, 5)),
        scorer=scorer or Echo(), step=3,
    )  # fmt: skip
    return collect(prompts, requests, scored.samples)


def test_rollouts_go_to_their_prompt_and_view_in_whatever_order_requests_come(prompts):
    requests = [request("y", None, 2), request("x", ("s1",), 1), request("x", None, 3), request("x", ("s0",), 2)]
    for seed in range(4):
        shuffled = random.Random(seed).sample(requests, k=len(requests))
        x, y = gather(prompts, shuffled)
        assert (x.prompt, y.prompt) == tuple(prompts)
        assert len(x.multi.rollouts) == 3
        assert {g.request.view: len(g.rollouts) for g in x.anchors} == {("s1",): 1, ("s0",): 2}
        assert y.anchors == ()
        for group in (x.multi, *x.anchors, y.multi):
            assert [r.index for r in group.rollouts] == list(range(len(group.rollouts)))
            assert [r.text for r in group.rollouts] == ["10", "220", "3330"][: len(group.rollouts)]


class EchoOfLists(Echo):
    """As a pool: one result for each answer, without the tuples."""

    def score(self, items):
        self.calls = list(items)
        return super().score(item for call in self.calls for item in call)


@pytest.mark.parametrize("seed", range(5))
def test_by_prompt_all_answers_of_a_prompt_go_together_in_the_order_of_the_requests(prompts, seed):
    requests = [request("x", None, 3), request("y", None, 1), request("x", ("s1",), 2), request("z", None, 1)]
    samples = [FinishedSample(r, k, Completion((k + 1,), (0.0,), "stop")) for r in (0, 1, 2) for k in range(3)]
    samples = [sample for sample in samples if sample.index < requests[sample.request].num_samples]
    stream = [*random.Random(seed).sample(samples, k=len(samples)), UnreadableRequest(3, "no such file")]
    scorer = EchoOfLists()
    scored = score_stream(
        [*prompts, make_prompt("z", [IMAGE])], requests, [stream], decode=lambda ids: str(ids[0]),
        frames=lambda p, v: (None, None), scorer=scorer, step=1, by_prompt=True,
    )  # fmt: skip
    calls = [[(item.truth, item.view, item.response) for item in call] for call in scorer.calls]
    assert sorted(calls, key=len) == [
        [("ty", None, "1")],
        [("tx", None, "1"), ("tx", None, "2"), ("tx", None, "3"), ("tx", ("s1",), "1"), ("tx", ("s1",), "2")],
    ]
    for item in scored.samples:  # Echo's score is the place of the answer in all that it was given
        assert (scorer.items[int(item.reward.score)].response, item.text) == (item.text, str(item.sample.index + 1))
    x, y = collect(prompts, requests[:3], scored.samples, scored.unreadable)
    assert (len(x.multi.rollouts), len(y.multi.rollouts)) == (3, 1)


def test_by_prompt_answers_with_a_given_score_are_left_out(prompts):
    requests = [request("y", None, 1), replace(request("y", None, 1), extra=ExtraFacts("hint", "signal", truth=None))]
    samples = [FinishedSample(r, 0, Completion((1,), (0.0,), "stop")) for r in (1, 0)]
    scorer = EchoOfLists()
    scored = score_stream(
        prompts, requests, [samples], decode=lambda ids: "a", frames=lambda p, v: (None, None), scorer=scorer,
        step=1, by_prompt=True,
    )  # fmt: skip
    assert [len(call) for call in scorer.calls] == [1]
    assert [(item.sample.request, item.reward.failed is None) for item in scored.samples] == [(0, True), (1, False)]


def test_the_scorer_sees_each_answer_once_with_its_own_truth(prompts):
    scorer = Echo()
    x, y = gather(prompts, [request("x", None, 2), request("x", ("s1",), 1), request("y", None, 1)], scorer=scorer)
    assert [(i.view, i.response, i.truth) for i in scorer.items] == [
        (None, "10", "tx"), (None, "220", "tx"), (("s1",), "10", "tx"), (None, "10", "ty"),
    ]  # fmt: skip
    assert {i.response_size for i in scorer.items} == {(5, 5)}
    assert scorer.items[3].extra_info == {"n": 1}
    assert [r.reward.score for r in (*x.multi.rollouts, *x.anchors[0].rollouts, *y.multi.rollouts)] == [0, 1, 2, 3]


def extra_request(prompt_id, num_samples, name="blind", view=None, images=(), **facts):
    facts = {"role": "signal", "truth": "t2"} | facts
    return replace(request(prompt_id, view, num_samples), images=images, extra=ExtraFacts(name, **facts))


def test_extra_requests_have_groups_of_their_own_and_their_own_truth(prompts):
    """Also with the view of an anchor, and several of one name about different rollouts."""
    scorer = Echo()
    requests = [
        request("x", None, 2), request("x", ("s1",), 1), extra_request("x", 1, about=1), extra_request("x", 2, about=0),
        extra_request("x", 1, view=("s1",), about=0, images=(IMAGE,)), request("y", None, 1),
    ]  # fmt: skip
    x, y = gather(prompts, requests, scorer=scorer)
    assert [i.truth for i in scorer.items] == ["tx", "tx", "tx", "t2", "t2", "t2", "t2", "ty"]
    assert [i.extra for i in scorer.items] == [None] * 3 + ["blind"] * 4 + [None]
    assert [len(i.images) for i in scorer.items] == [1] * 3 + [0] * 3 + [1] * 2
    assert {i.step for i in scorer.items} == {3}
    assert (len(x.multi.rollouts), [g.request.view for g in x.anchors], y.extras) == (2, [("s1",)], ())
    assert [g.request.key[1:] for g in x.extras] == [(None, "blind", 1), (None, "blind", 0), (("s1",), "blind", 0)]
    assert [[r.reward.score for r in g.rollouts] for g in x.extras] == [[3], [4, 5], [6]]
    assert {r.extra for g in x.extras for r in g.rollouts} == {"blind"}


def test_two_requests_of_one_name_about_the_same_are_refused(prompts):
    with pytest.raises(ValueError, match="x has two requests of the same view and name"):
        gather(prompts[:1], [request("x", None, 1), extra_request("x", 1), extra_request("x", 1)])
    with pytest.raises(ValueError, match="x has two requests"):
        gather(prompts[:1], [request("x", None, 1), request("x", None, 1)])


def test_what_has_no_truth_or_a_given_score_does_not_go_to_the_reward(prompts):
    scorer = Echo()
    requests = [extra_request("x", 2, truth=None), request("x", None, 1), extra_request("x", 1, "told", score=0.25)]
    (x,) = gather(prompts[:1], requests, scorer=scorer)
    assert len(scorer.items) == 1
    unscored, told = x.extras
    assert [r.reward.failed for r in unscored.rollouts] == ["not scored: its extra request has no truth"] * 2
    assert [r.reward for r in told.rollouts] == [RewardResult(0.25, 0.0, {})]
    assert [r.reward.score for r in x.multi.rollouts] == [0.0]


def test_what_is_missing_is_an_error(prompts):
    with pytest.raises(ValueError, match="x has no multi rollouts"):
        gather(prompts[:1], [request("x", ("s0",), 1)])
    two = [request("x", None, 2)]
    for indices, message in [
        ([0], r"samples \[0\] of 2 for prompt x"), ([0, 2], r"\[0, 2\] of 2"), ([0, 1, 2], r"of 2"),
        ([0, 1, 1], "sample 1 of prompt x, view None came twice"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            collect(prompts[:1], two, [scored_sample(0, k) for k in indices])


def scored_sample(position, index):
    completion = Completion((position, index), (0.0, 0.0), "stop")
    reward = RewardResult(position + index / 100, 0.0, {})
    return ScoredSample(FinishedSample(position, index, completion), f"{position} {index}", reward)


@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from([("s0",), ("s1",)]), st.integers(1, 4)), max_size=4,
             unique_by=lambda wanted: wanted[:2]),
    st.randoms(use_true_random=False),
)  # fmt: skip
@examples(60)
def test_whatever_the_order_in_which_samples_finish(views, random):
    """Completion, text and reward of a sample stay together and go where its request says."""
    prompts = [make_prompt("x", [IMAGE] * 2), make_prompt("y", [IMAGE] * 2)]
    requests = [request("x", None, 3), request("y", None, 2), *(request(*wanted) for wanted in views)]
    random.shuffle(requests)
    scored = [scored_sample(i, k) for i, r in enumerate(requests) for k in range(r.num_samples)]
    random.shuffle(scored)
    collected = collect(prompts, requests, scored)
    found = [group for item in collected for group in (item.multi, *item.anchors)]
    assert len(found) == len(requests)
    for group in found:
        position = requests.index(group.request)
        for k, rollout in enumerate(group.rollouts):
            assert rollout.completion.token_ids == (position, k)
            assert (rollout.text, rollout.reward.score) == (f"{position} {k}", position + k / 100)
            assert (rollout.prompt_id, rollout.view, rollout.index) == (group.request.prompt_id, group.request.view, k)


def test_a_sample_is_scored_when_it_is_finished_not_when_all_are(prompts):
    """The scorer has every sample that is out before the engine makes the next."""
    seen = []

    class Eager(Echo):
        def score(self, items):
            return [seen.append(item.response) or RewardResult(0.0, 0.0, {}) for item in items]

    def stream():
        for index in (1, 2, 0):
            yield [FinishedSample(0, index, Completion((index,), (0.0,), "stop"))]
            assert seen[-1] == str(index)

    arguments = {"decode": lambda ids: str(ids[0]), "frames": lambda p, v: (None, None), "scorer": Eager(), "step": 1}
    scored = score_stream(prompts, [request("x", None, 3)], stream(), **arguments)
    assert [item.sample.index for item in scored.samples] == [1, 2, 0]


def test_engine_metrics_by_hand():
    counts = EngineCounts(13, 13, 900, 600) - EngineCounts(10, 10, 500, 300)
    assert engine_metrics(counts) == {
        "rollout/distinct_images": 3.0, "rollout/encoder_runs": 3.0, "rollout/prefix_cache_hit_rate": 0.75,
    }  # fmt: skip
    assert "rollout/prefix_cache_hit_rate" not in engine_metrics(EngineCounts(images=2))
    assert EngineCounts(1, 2, 3, 4) + EngineCounts(10, 20, 30, 40) == EngineCounts(11, 22, 33, 44)


def test_metrics_by_hand(prompts):
    decode = lambda ids: "fail" if len(ids) == 3 else "ok"  # noqa: E731
    rollouts = gather(prompts, [request("x", None, 3), request("x", ("s0",), 2), request("y", None, 1)], decode)
    # Lengths: x 2, 3 (failed), 4; its anchor 2, 3 (failed); y 2. Scores 0, 1, 2; 3, 4; 5.
    metrics = rollout_metrics(rollouts, lambda r: 10 if r.prompt_id == "x" else 20)
    assert metrics == {
        "response_length/mean": 11 / 4,
        "response_length/max": 4.0,
        "response_length/min": 2.0,
        "response_length/clip_ratio": 0.0,
        "prompt_length/mean": 15.0,
        "rollout/responses": 6.0,
        "anchor/responses": 2.0,
        "rollout/tokens": 16.0,
        "anchor/tokens": 5.0,
        "reward/failed": 2.0,
        "reward/format/mean": pytest.approx((0 + 2 + 5) / 3),
    }
    assert processed_tokens(rollouts, lambda r: 10 if r.prompt_id == "x" else 20) == 5 * 10 + 20 + 16


def test_parts_may_be_any_finite_numbers():
    huge = RewardResult(1.0, 1.0, {"time": 1.5e308, "steps": 2.0})
    metrics = rollout_metrics([make_rollouts("a", [huge, huge, 1.0])], lambda r: 1)
    assert (metrics["reward/time/mean"], metrics["reward/steps/mean"]) == (float("inf"), 2.0)


def test_a_response_without_an_end_was_cut_at_the_limit():
    engine = ScriptedEngine(lambda r, k: range(1, 100) if k else (1, EOS), [EOS])
    stopped, cut = completions(engine, [request("x", None, 2)])[0]
    assert (stopped.token_ids, stopped.finish_reason) == ((1, EOS), "stop")
    assert (cut.token_ids, cut.finish_reason) == ((1, 2, 3, 4, 5, 6), "length")


def test_random_responses_depend_on_the_seed_alone_and_keep_the_limit():
    engine = ScriptedEngine(random_script(range(5, 50), EOS), [EOS])
    wanted = [RolloutRequest("x", None, (1,), (), 40, seed, SAMPLING) for seed in (7, 8)]
    first, second = completions(engine, wanted)
    assert [second, first] == completions(engine, wanted[::-1])
    assert first != second
    assert first[1:] == second[:-1]  # sample k draws with seed + k
    assert all(len(c.token_ids) <= 6 and c.token_ids[-1] == EOS for c in (*first, *second))
    assert len({c.token_ids for c in first}) > 20


@pytest.mark.parametrize(("kind", "kept"), [(ScriptedEngine, False), (RecordingEngine, True)])
def test_only_the_engine_that_records_keeps_what_it_was_given(kind, kept):
    engine = kind(random_script(range(5, 50), EOS), [EOS])

    def give():
        """What was given, referred to weakly: it lives on where the engine holds it."""
        asked, announced, update = request("x", None, 2), request("y", None, 2), WeightUpdate(1, None)
        completions(engine, [asked])
        engine.prefetch([announced])
        engine.load_weights(update)
        return [weakref.ref(given) for given in (asked, announced, update)]

    assert [given() is not None for given in give()] == [kept] * 3
    assert engine.counts() == EngineCounts(images=1)
