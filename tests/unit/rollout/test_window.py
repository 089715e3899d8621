"""The window: how requests are divided into parts, taken one by one, and given to vLLM."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.rollout.engine import EngineCounts, UnreadableRequest
from mars.rollout.scripted import ScriptedEngine
from mars.rollout.vllm_call import VllmCall, VllmParts
from mars.rollout.window import Feed, Intake, Part, first_window, in_parts
from mars.types import ImageRef, RolloutRequest, Sampling

numbers_of_samples = st.lists(st.integers(1, 12), max_size=40)


def request(i: int, samples: int, temperature: float = 1.0) -> RolloutRequest:
    return RolloutRequest(f"p{i}", None, (i,), (), samples, i, Sampling(temperature, 1.0, 0, 4))


def requests_of(samples: list[int]) -> list[RolloutRequest]:
    return [request(i, number) for i, number in enumerate(samples)]


def size(request: RolloutRequest) -> int:
    return request.num_samples


def test_parts_by_hand():
    five = requests_of([4] * 5)
    parts = in_parts(five, 16)
    assert [[r.seed for r in part.requests] for part in parts] == [[0, 1], [2, 3], [4]]
    assert [(part.is_first, part.is_last) for part in parts] == [(True, False), (False, False), (False, True)]
    assert in_parts(five, 20) == [Part(five)], "what fits into the window is one part"
    assert in_parts([], 20) == [Part([])]
    assert [len(part.requests) for part in in_parts(requests_of([9, 1, 9]), 16)] == [1, 1, 1]


@given(numbers_of_samples, st.integers(2, 30))
def test_parts_hold_every_request_once_in_order_and_at_most_half_a_window(samples, window):
    asked = requests_of(samples)
    parts = in_parts(asked, window)
    assert [r for part in parts for r in part.requests] == asked
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    if len(parts) > 1:
        assert all(len(part.requests) == 1 or sum(map(size, part.requests)) <= window // 2 for part in parts)


def test_the_first_window_is_as_many_requests_as_fit():
    asked = requests_of([4, 4, 4])
    assert [first_window(asked, window) for window in (3, 4, 11, 12)] == [[], asked[:1], asked[:2], asked]


@given(numbers_of_samples, st.integers(1, 30), st.randoms())
def test_an_engine_never_has_more_than_a_window_and_takes_no_request_early(samples, window, random):
    drawn = []

    def source():
        for each in requests_of(samples):
            drawn.append(each)
            yield each

    intake, unfinished, taken = Intake(source(), window, size), [], []
    while not intake.is_over or unfinished:
        new = intake.take()
        assert not intake.is_waiting
        taken += new
        unfinished += [i for i, each in new for _ in range(each.num_samples)]
        assert intake.unfinished == len(unfinished)
        assert len(unfinished) <= window or 2 * (len(unfinished) - taken[-1][1].num_samples) < window
        assert len(drawn) <= len(taken) + 1, "one request is looked at before there is room for it"
        if unfinished:
            unfinished.remove(random.choice(unfinished))
            intake.unfinished -= 1
    assert taken == list(enumerate(requests_of(samples)))


class FakeVllm:
    """Runs at most `max_num_seqs` samples at once, in the order of their requests. A sample takes as many steps as its
    request's id says. had: most samples that it has had. ran: the samples of each step."""

    def __init__(self, max_num_seqs: int) -> None:
        self.max_num_seqs, self.samples, self.had, self.ran = max_num_seqs, [], 0, []

    def add_request(self, name: str, prompt: RolloutRequest, params) -> None:
        drawn = 1 if prompt.sampling.temperature == 0 else prompt.num_samples
        self.samples += [[name, k, 1 + (prompt.seed + k) % 5, prompt] for k in range(drawn)]
        self.had = max(self.had, len(self.samples))

    def has_unfinished_requests(self) -> bool:
        return bool(self.samples)

    def step(self):
        running = self.samples[: self.max_num_seqs]
        self.ran.append([(prompt.seed, k) for _, k, _, prompt in running])
        for sample in running:
            sample[2] -= 1
        over = [sample for sample in running if not sample[2]]
        self.samples = [sample for sample in self.samples if sample[2]]
        return [self._output(*sample) for sample in over]

    def _output(self, name, k, _, prompt):
        part = SimpleNamespace(
            index=k, token_ids=[3], logprobs=[{3: SimpleNamespace(logprob=-1.0)}], finish_reason="stop"
        )
        return SimpleNamespace(request_id=name, outputs=[part], prompt_token_ids=[1, 2], num_cached_tokens=1)

    def abort_request(self, names) -> None:
        self.samples = [sample for sample in self.samples if sample[0] not in names]


class Rendered:
    """Futures of prompts, done at once. waiting: those that were not asked for yet."""

    def __init__(self, unreadable=()) -> None:
        self.unreadable, self.started, self.most, self.used = unreadable, 0, 0, 0

    def __call__(self, asked: RolloutRequest) -> Future:
        future = Future()
        self.started += 1
        if asked.prompt_id in self.unreadable:
            future.set_exception(DataError(f"{asked.prompt_id}.png is gone"))
        else:
            future.set_result(asked)
        return future


def call(vllm: FakeVllm, asked, rendered=None, counts=None) -> VllmCall:
    return VllmCall(
        VllmParts(
            vllm,
            vllm.max_num_seqs,
            map(str, count()),
            rendered or Rendered(),
            lambda request: None,
            (lambda new: counts.append(new)) if counts is not None else (lambda new: None),
            version=0,
        ),
        asked,
    )


def everything_at_once(samples, max_num_seqs) -> FakeVllm:
    vllm = FakeVllm(max_num_seqs)
    for i, each in enumerate(requests_of(samples)):
        vllm.add_request(str(i), each, None)
    while vllm.samples:
        vllm.step()
    return vllm


@given(numbers_of_samples, st.integers(1, 16), st.booleans())
def test_vllm_computes_together_what_it_would_with_all_requests_from_the_start(samples, max_num_seqs, in_feed):
    """Also if the requests come in parts, each of them as late as possible."""
    vllm, asked = FakeVllm(max_num_seqs), requests_of(samples)
    parts, feed = in_parts(asked, 2 * max_num_seqs), Feed()
    if not in_feed:
        feed.add(Part(asked))
    found = []
    for finished in call(vllm, feed).finished():
        found += [(sample.request, sample.index) for sample in finished]
        if feed.is_waited_for:
            feed.add(parts.pop(0))
    assert sorted(found) == [(i, k) for i, each in enumerate(asked) for k in range(each.num_samples)]
    assert vllm.ran == everything_at_once(samples, max_num_seqs).ran
    assert vllm.had <= max_num_seqs + max(samples, default=0)


def test_images_are_read_within_the_window_only():
    vllm, rendered = FakeVllm(4), Rendered()
    stream = call(vllm, requests_of([2] * 50), rendered).finished()
    next(stream)
    assert rendered.started <= 4 + 2, "a window of 8 samples, and room for those that have finished"
    list(stream)
    assert rendered.started == 50


def test_what_cannot_be_read_makes_room_for_others():
    vllm, counts = FakeVllm(2), []
    image = ImageRef("a.png", (28, 28))
    asked = [RolloutRequest(**{**vars(r), "images": (image,)}) for r in requests_of([2] * 6)]
    found = [
        item for items in call(vllm, asked, Rendered(("p0", "p1", "p2", "p5")), counts).finished() for item in items
    ]
    refused = [item for item in found if isinstance(item, UnreadableRequest)]
    assert refused == [UnreadableRequest(i, f"p{i}.png is gone") for i in (0, 1, 2, 5)]
    assert sorted((s.request, s.index) for s in found if s not in refused) == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert sum(counts, EngineCounts()) == EngineCounts(images=1, prompt_tokens=8, cached_tokens=4)


def test_greedy_samples_are_one_for_the_window():
    vllm = FakeVllm(2)
    found = [s for items in call(vllm, [request(i, 8, temperature=0.0) for i in range(5)]).finished() for s in items]
    assert sorted((s.request, s.index) for s in found) == [(i, k) for i in range(5) for k in range(8)]
    assert vllm.had == 2


def test_a_call_that_is_given_up_leaves_nothing():
    vllm = FakeVllm(4)
    stream = call(vllm, requests_of([3] * 9)).finished()
    next(stream)
    stream.close()
    assert vllm.samples == []


def test_samples_that_vllm_loses_are_an_error():
    vllm = FakeVllm(4)
    vllm.step = lambda: setattr(vllm, "samples", []) or []
    with pytest.raises(RuntimeError, match="left 2 requests without all their samples"):
        list(call(vllm, requests_of([2, 2])).finished())


@pytest.mark.parametrize("late", [1, 2])
def test_an_engine_waits_for_a_request_that_has_not_come(late):
    """The scripted one; the numbers of its requests go on."""
    feed, asked = Feed(), requests_of([1, 2, 1])
    feed.add(Part(asked[:late], is_last=False))
    found = []
    for finished in ScriptedEngine(lambda request, k: [5, 1], [1]).generate(feed):
        found += [(sample.request, sample.index) for sample in finished]
        if feed.is_waited_for:
            assert not finished
            feed.add(Part(asked[late:], is_first=False))
    assert found == [(0, 0), (1, 0), (1, 1), (2, 0)]
