"""A step with `anchor.allocation`: two engine calls, groups of different sizes, and the same seeds. With fakes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.anchor_use import AnchorUse
from mars.checkpoint.state import START, RunState
from mars.data.order.stream import PromptStream
from mars.fit import fit
from mars.hooks.requests import Extra
from mars.hooks.step_hooks import Named
from mars.rewards.contract import failed_result
from mars.rollout.seeds import request_seed
from mars.staleness import renumbered
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import Message, RewardResult
from tests.builders import make_prompt
from tests.examples import examples
from tests.fakes.engine import RecordingEngine
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, Rounds, one_step, parts
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import step_hooks
from tests.unit.test_fit import random_parts, without_times
from tests.unit.test_step import expected_advantages, seen_advantages
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, saved_and_loaded, settings

NOTHING = SamplingState(0, ())
RUN_SEED = 3  # of `parts`
MOST = 16  # 4 x G: no prompt gets more


def prompts_of(number):
    return [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(number)]


def table_of(prompts, right=()):
    """Score and accuracy 0 for every response, 1 for those of `right`: (prompt id, view, number)."""
    views = [(None, MOST), (("s0",), 2), (("s1",), 2)]
    table = {(p.prompt_id, view, k): 0.0 for p in prompts for view, count in views for k in range(count)}
    return table | dict.fromkeys(right, 1.0)


class NumberedEngine(RecordingEngine):
    """The number of a response, which its text says, follows from its seed alone: seed - that of the prompt and view.

    calls: the requests of each `generate`.
    """

    def __init__(self, step=1):
        super().__init__(self._numbered, [EOS])
        self.step, self.calls = step, []

    def generate(self, requests):
        requests = list(requests)
        self.calls.append(requests)
        return super().generate(requests)

    def _numbered(self, request, k):
        number = request.seed + k - request_seed(RUN_SEED, self.step, request.prompt_id, request.view)
        return (*[5] * (number + 1), EOS)


def made_with(allocation, table, engine=None, **more):
    made = parts(table, **more)
    long = replace(made.plan.multi_sampling, max_response_tokens=MOST + 2)
    plan = replace(made.plan, allocation=allocation, multi_sampling=long)
    return replace(made, engine=engine or NumberedEngine(), plan=plan)


def sizes(rollouts):
    return {item.prompt.prompt_id: len(item.multi.rollouts) for item in rollouts}


def test_the_second_half_goes_to_the_prompts_that_only_an_anchor_gets_right():
    """p1: an anchor is right. p2: nothing is. p3: both are. p0: a multi response is right, but a late one."""
    prompts = prompts_of(4)
    table = table_of(
        prompts,
        [("p0", None, 2), ("p1", ("s1",), 0), ("p1", None, 5), ("p3", ("s0",), 1), ("p3", None, 1)],
    )
    made = made_with("conflict", table)
    result = one_step(made, prompts)
    first, second = made.engine.calls
    assert [(r.prompt_id, r.view, r.num_samples) for r in first if r.view is None] == [
        (f"p{i}", None, 2) for i in range(4)
    ]
    assert Counter(r.num_samples for r in first if r.view is not None) == {2: 8}
    assert [(r.prompt_id, r.view, r.num_samples) for r in second] == [("p1", None, 8)]
    assert sizes(result.rollouts) == {"p0": 2, "p1": 10, "p2": 2, "p3": 2}
    (p1,) = [item for item in result.rollouts if item.prompt.prompt_id == "p1"]
    assert [rollout.text for rollout in p1.multi.rollouts] == [str(k) for k in range(10)]
    assert [rollout.index for rollout in p1.multi.rollouts] == list(range(10))
    assert p1.multi.request.num_samples == 10
    assert p1.multi.request.seed == request_seed(RUN_SEED, 1, "p1", None)
    metrics = {key: value for key, value in result.metrics.items() if "/allocation/" in key}
    assert metrics == {
        "mars/allocation/frac_target": 0.25,
        "mars/allocation/max_samples": 10.0,
        "mars/allocation/rescued": 1.0,
        "mars/allocation/first_score": 1 / 8,  # response 1 of p3 alone; of all 16 multi responses, 2 are right
    }


def test_the_control_looks_at_no_anchor():
    prompts = prompts_of(4)
    right = [("p1", ("s1",), 0), ("p3", None, 1)]
    made = made_with("unsolved", table_of(prompts, right), anchor="mono")
    result = one_step(made, prompts)
    found = sizes(result.rollouts)
    assert found.pop("p3") == 2
    assert sorted(found.values()) == [4, 5, 5]  # 8 more for three prompts
    assert "mars/allocation/rescued" in result.metrics
    alone = one_step(made_with("unsolved", table_of(prompts, right), anchor="none"), prompts)
    assert sizes(alone.rollouts) == sizes(result.rollouts), "nor does it need any"


def test_advantages_of_unequal_groups_are_those_of_the_whole_group():
    prompts = prompts_of(5)
    rng = random.Random(1)
    table = {key: rng.random() * 0.49 for key in table_of(prompts)}
    table[("p2", ("s0",), 0)] = table[("p4", ("s1",), 1)] = 0.75
    made = made_with("conflict", table, num_ranks=2, per_update=2)
    result = one_step(made, prompts)
    found = sizes(result.rollouts)
    assert found == {"p0": 2, "p1": 2, "p2": 7, "p3": 2, "p4": 7}
    sampled = {key: s for key, s in table.items() if key[1] is not None or key[2] < found[key[0]]}
    seen = seen_advantages(made.trainer)
    for prompt in prompts:
        assert seen[prompt.prompt_id] == pytest.approx(expected_advantages(sampled, prompt.prompt_id), rel=1e-9)
        assert len(seen[prompt.prompt_id]) == found[prompt.prompt_id]


@pytest.mark.parametrize("samples", [2, 4, 5])
def test_without_targets_the_responses_are_those_of_even_bit_for_bit(samples):
    prompts = prompts_of(6)
    rng = random.Random(2)
    table = {key: rng.random() * 0.49 for key in table_of(prompts)}
    even, halves = (made_with(how, table, samples=samples) for how in ("even", "conflict"))
    whole, result = one_step(even, prompts), one_step(halves, prompts)
    assert (len(even.engine.calls), len(halves.engine.calls)) == (1, 2)
    assert result.rollouts == whole.rollouts
    assert halves.trainer.targets == even.trainer.targets
    only = {key: value for key, value in result.metrics.items() if "/allocation/" in key}
    first = [table[p.prompt_id, None, k] for p in prompts for k in range(-(-samples // 2))]
    assert only.pop("mars/allocation/first_score") == pytest.approx(sum(first) / len(first))
    assert only == {"mars/allocation/frac_target": 0.0, "mars/allocation/max_samples": samples}
    same = {k: v for k, v in whole.metrics.items() if not k.startswith(("timing_s/", "perf/"))}
    # Each engine call counts the images that it shows.
    assert {k: v for k, v in result.metrics.items() if k in same and k != "rollout/distinct_images"} == {
        k: v for k, v in same.items() if k != "rollout/distinct_images"
    }


@examples(60)
@given(
    number=st.integers(1, 9), samples=st.integers(2, 4), seed=st.integers(0, 10**6),
    allocation=st.sampled_from(["conflict", "unsolved"]),
)  # fmt: skip
def test_every_round_has_as_many_multi_rollouts_as_with_even(number, samples, seed, allocation):
    rng, prompts = random.Random(seed), prompts_of(number)
    table = {key: float(rng.random() < 0.15) for key in table_of(prompts)}
    made = made_with(allocation, table, samples=samples)
    result = one_step(made, prompts)
    assert sum(sizes(result.rollouts).values()) == number * samples
    for item in result.rollouts:
        assert [int(rollout.text) for rollout in item.multi.rollouts] == list(range(len(item.multi.rollouts)))


def test_a_prompt_that_cannot_be_read_has_no_share():
    """With three left there are 6 more, not 8. What a view of p1 lacks costs p1 alone."""
    prompts = prompts_of(4)
    made = made_with("unsolved", table_of(prompts, [("p0", None, 0), ("p3", None, 0)]))
    made.engine.unreadable["p1", ("s0",)] = "gone"
    made = replace(made, bad_samples=replace(made.bad_samples, max_fraction=1.0))
    result = one_step(made, prompts)
    assert sizes(result.rollouts) == {"p0": 2, "p2": 8, "p3": 2}
    assert result.state.quarantine.prompt_ids == {"p1"}


class LostLater(NumberedEngine):
    """p2 cannot be read any more in the second call."""

    def generate(self, requests):
        if self.calls:
            self.unreadable["p2", None] = "gone meanwhile"
        return super().generate(requests)


def test_a_prompt_that_is_lost_between_the_calls_is_left_out_whole():
    prompts = prompts_of(4)
    made = made_with("unsolved", table_of(prompts, [("p0", None, 0), ("p3", None, 0)]), LostLater())
    made = replace(made, bad_samples=replace(made.bad_samples, max_fraction=1.0))
    result = one_step(made, prompts)
    assert sizes(result.rollouts) == {"p0": 2, "p1": 6, "p3": 2}
    assert result.state.quarantine.prompt_ids == {"p2"}
    assert "p2" not in seen_advantages(made.trainer)


def test_nothing_is_asked_a_second_time_if_no_prompt_can_be_read():
    prompts = prompts_of(2)
    made = made_with("conflict", table_of(prompts))
    made.engine.unreadable |= {(name, None): "gone" for name in ("p0", "p1")}
    made = replace(made, bad_samples=replace(made.bad_samples, max_fraction=1.0))
    assert one_step(made, prompts).rollouts == []
    assert len(made.engine.calls) == 1


def test_failed_rewards_are_not_right():
    prompts = prompts_of(3)
    table = table_of(prompts, [("p0", ("s0",), 0), ("p1", ("s0",), 0), ("p2", ("s0",), 0)])
    table |= {("p0", None, 0): None, ("p0", None, 1): None, ("p1", ("s0",), 0): None, ("p1", None, 0): 1.0}
    result = one_step(made_with("conflict", table), prompts)
    assert sizes(result.rollouts) == {"p0": 5, "p1": 2, "p2": 5}
    assert result.metrics["reward/failed"] == 3


@pytest.mark.parametrize("allocation", ["conflict", "unsolved"])
def test_rounds_of_dynamic_sampling_are_shared_out_each_by_itself_and_groups_are_carried_whole(allocation):
    prompts, rng = prompts_of(24), random.Random(5)
    table = {key: float(rng.random() < 0.2) for key in table_of(prompts)}
    stream, state, carried = PromptStream(prompts, 4, 1, shuffle=True), NOTHING, 0
    for step in range(1, 6):
        made = made_with(
            allocation, table, NumberedEngine(step), selection="nonzero_advantage", max_rounds=4, per_update=4
        )
        before, result = state, train_step(made, stream, state, step)
        rounds = int(result.metrics["mars/rounds"])
        assert len(made.engine.calls) == 2 * rounds
        fresh = [len({r.prompt_id for r in call}) for call in made.engine.calls[::2]]
        multi = [sum(r.num_samples for r in call if r.view is None) for call in made.engine.calls]
        assert [a + b for a, b in zip(multi[::2], multi[1::2], strict=True)] == [4 * count for count in fresh]
        seen = seen_advantages(made.trainer)
        of_step = [*(item.rollouts for item in before.carried), *result.rollouts]
        found = sizes(item for item in of_step if item.prompt.prompt_id in seen)
        assert {name: len(of) for name, of in seen.items()} == found
        state = result.state
        carried += len(state.carried)
        again = saved_and_loaded(RunState(step, state, {}, logged=True), prompts)
        assert again.sampling == renumbered(state, 0)
    assert carried


def test_probes_are_sampled_in_one_call():
    prompts = prompts_of(4)
    plan = made_with("conflict", {}).plan
    assert plan.first_samples == 2
    assert plan.of_probes().allocation == "even"
    assert [r.num_samples for r in plan.of_probes().requests(prompts[:1], 1)] == [4]


def test_a_ramp_of_the_samples_moves_both_halves():
    plan = made_with("conflict", {}).plan.at({"rollout.samples_per_prompt": 7.0})
    assert (plan.first_samples, plan.multi_samples) == (4, 7)
    assert replace(plan, allocation="even").first_samples == 7


class Asks:
    """Asks something of a prompt before its responses, and about the last of its responses after them."""

    def before(self, prompt, facts):
        return [Extra("first", "own_group", prompt.messages, (IMAGE, IMAGE), "yes", 1)]

    def after(self, item, facts):
        last = len(item.multi.rollouts) - 1
        return [Extra("last", "signal", prompt_text("Why?"), (), None, 1, about=last)]


def prompt_text(text):
    return (Message("user", text),)


def test_a_recipe_asks_before_the_first_half_and_after_the_second():
    prompts = prompts_of(3)
    table = table_of(prompts, [("p1", ("s0",), 0)]) | {(p.prompt_id, None, 0): 0.0 for p in prompts}
    made = made_with("conflict", table, SeenTexts())
    result = one_step(with_requests(made, step_hooks(requests=Named("asks", Asks(), None))), prompts)
    first, second, third = made.engine.calls
    assert [r.extra.name for r in first if r.extra is not None] == ["first"] * 3
    assert [(r.prompt_id, r.num_samples) for r in second] == [("p1", 6)]
    assert [(r.prompt_id, r.extra.about) for r in third] == [("p0", 1), ("p1", 7), ("p2", 1)]
    for item in result.rollouts:
        assert [group.request.extra.name for group in item.extras] == ["first", "last"]


class SeenTexts(NumberedEngine):
    """Extra requests get the response 0."""

    def _numbered(self, request, k):
        return (5, EOS) if request.extra is not None else super()._numbered(request, k)


class AccurateLengths:
    """Right if the response has few tokens; some are not scored."""

    def score(self, items):
        lengths = [len(item.response.split()) for item in items]
        return [failed_result("raised") if n == 7 else RewardResult(float(n < 3), float(n < 3), {}) for n in lengths]

    def close(self):
        pass


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
def test_a_resumed_run_is_the_run_that_nobody_disturbed(schedule, selection):
    prompts = prompts_of(10)

    def run(start, last=6):
        made = replace(random_parts(), scorer=AccurateLengths(), selection=selection)
        made = replace(made, plan=replace(made.plan, allocation="conflict"), max_rounds=1 if selection == "all" else 3)
        config, stream, tracker = settings(last), PromptStream(prompts, 3, 0, True), RecordingTracker()
        checkpoints = CheckpointsInMemory()
        step = train_step if schedule == "synchronous" else ahead_of(config, stream, max_staleness=2)
        fit(made, stream, tracker, config, None, checkpoints, start, 0, step)
        return [batch.prompts for batch in made.trainer.batches], checkpoints.states, without_times(tracker)

    whole, states, rows = run(START)
    assert len(rows) == 6
    assert {len(prompt.responses) for batch in whole for prompt in batch} > {2}, "groups of several sizes"
    assert any(row["mars/allocation/frac_target"] > 0 for _, row in rows)
    for stopped_after in (2, 4):
        batches, _, rest = run(saved_and_loaded(states[stopped_after], prompts))
        assert batches == whole[stopped_after:]
        assert rest == rows[stopped_after:]


def test_guests_join_groups_of_both_halves():
    """p1 has ten multi responses, one of them right. Its right anchor scores above their mean and becomes a guest."""
    prompts = prompts_of(4)
    made = made_with("conflict", table_of(prompts, [("p1", ("s1",), 0), ("p1", None, 5)]))
    made = replace(made, anchor_use=AnchorUse(lambda *given: True, "off"))
    result = one_step(made, prompts)
    found = {item.prompt.prompt_id: item for item in result.rollouts}
    assert sizes(result.rollouts) == {"p0": 2, "p1": 10, "p2": 2, "p3": 2}
    (guests,) = [group for group in found["p1"].multi_groups if group.role == "guest"]
    assert [rollout.reward.score for rollout in guests.rollouts] == [1.0]
    (trained,) = made.trainer.batches[0].prompts[1:2]
    pool = [*[0.0] * 5, 1.0, *[0.0] * 4, 1.0]
    wanted = [(score - 2 / 11) / (stdev(pool) + 1e-6) for score in pool]
    assert [response.advantage for response in trained.responses] == pytest.approx(wanted)


def test_images_are_read_ahead_for_the_first_half():
    prompts = prompts_of(4)
    made = made_with("conflict", table_of(prompts, [("p0", ("s0",), 0)]))
    train_step(made, Rounds(prompts, 2), NOTHING, 1)
    assert [(r.prompt_id, r.num_samples) for r in made.engine.prefetched if r.view is None] == [("p2", 2), ("p3", 2)]
