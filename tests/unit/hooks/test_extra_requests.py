"""Steps whose recipe asks more than the views of a prompt: what is asked, scored, trained on and kept. With fakes."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from mars.checkpoint.state import START
from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.fit import fit
from mars.hooks.requests import Extra, Injected
from mars.hooks.step_hooks import Named
from mars.rollout.engine import UnreadableRequest
from mars.rollout.seeds import request_seed
from mars.step import train_step
from mars.types import Message, RewardResult, Sampling
from tests.builders import make_prompt
from tests.examples import some
from tests.fakes.engine import RecordingEngine
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, TableScorer, one_step, parts, script
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import step_hooks
from tests.unit.test_fit import without_times
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, saved_and_loaded, settings

SCORES = {"own": 0.0, "noisy": 0.4, "told": 2.0, "blind": 0.1}
MULTI = Sampling(1.0, 0.9, 0, 16)


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(8)]


class Asks:
    """A group of its own, two guests and a given text before; one text-only request about each multi response after.

    Prompt p1 is asked nothing before.
    """

    def __init__(self, before=True, after=True):
        self._before, self._after = before, after

    def before(self, prompt, facts):
        if not self._before or prompt.prompt_id == "p1":
            return ()
        images = tuple(source.image for source in prompt.sources)
        question = (Message("user", "a part?"),)
        return (
            Extra("own", "own_group", question, (), "part", 2, replace(MULTI, max_response_tokens=4)),
            Extra("noisy", "guest", prompt.messages, images, prompt.truth, 2, bounded=True),
            Injected("told", "555", None),
        )

    def after(self, item, facts):
        if not self._after:
            return ()
        about = enumerate(item.multi.rollouts)
        return [
            Extra("blind", "signal", (Message("user", f"said {r.text}"),), (), item.prompt.truth, 1, about=k)
            for k, r in about
        ]


class Outside(Asks):
    """The given text is in no pool. It is given after the responses, except to p1 and where one is above 0.7."""

    def before(self, prompt, facts):
        return [one for one in super().before(prompt, facts) if not isinstance(one, Injected)]

    def after(self, item, facts):
        told = item.prompt.prompt_id != "p1" and all(one.reward.score <= 0.7 for one in item.multi.valid)
        return [*super().after(item, facts), *[Injected("told", "555", None, in_pool=False)] * told]


class Scorer(TableScorer):
    """The scores of extra requests are those of SCORES, plus 1 for each sample after the first."""

    def __init__(self, table):
        super().__init__(table)
        self.items = []

    def _score(self, item):
        self.items.append(item)
        return super()._score(item) if item.extra is None else _extra_score(item)


def _extra_score(item):
    score = SCORES[item.extra] + int(item.response)
    return RewardResult(score, min(score, 1.0), {"part": score})


def asking(made, hook, max_prompt_tokens=99):
    """The parts of a step with the hook and a scorer that knows the extra requests."""
    hooks = step_hooks(requests=Named("own:Asks", hook, None))
    return replace(with_requests(made, hooks, max_prompt_tokens), scorer=Scorer(made.scorer.table))


def test_one_step_by_hand(prompts):
    """Multi 0, 0.25, 0.5, 0.75; guests 0.4 and 1.4, the given text (three fives, sample 2) 4; no anchors."""
    (prompt,) = prompts[:1]
    made = asking(parts({("p0", None, k): 0.25 * k for k in range(4)}, anchor="none"), Asks())
    result = one_step(made, [prompt])
    asked = [(r.extra and r.extra.name, r.num_samples, len(r.images)) for r in made.engine.requests]
    assert asked == [(None, 4, 1), ("own", 2, 0), ("noisy", 2, 1), *[("blind", 1, 0)] * 4]
    assert made.scorer.calls == 2
    truths = {item.extra: item.truth for item in made.scorer.items}
    assert truths == {None: "yes", "own": "part", "noisy": "yes", "told": "yes", "blind": "yes"}
    multi, own = made.trainer.batches[0].prompts
    pool = [0, 0.25, 0.5, 0.75, 0.4, 1.4, 4.0]
    mean = sum(pool) / 7
    std = (sum((r - mean) ** 2 for r in pool) / 6) ** 0.5
    assert [r.advantage for r in multi.responses] == pytest.approx([(r - mean) / (std + 1e-6) for r in pool])
    assert [r.off_policy for r in multi.responses] == [False] * 4 + [True] * 3
    assert [r.bounded for r in multi.responses] == [False] * 4 + [True] * 2 + [False]
    assert multi.responses[6].token_ids == (5, 5, 5, EOS)
    assert (own.prompt_token_ids, own.images) == ((2, 7), ())
    assert [r.advantage for r in own.responses] == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-5)
    assert [r.seed for r in made.engine.requests[3:]] == [
        request_seed(3, 1, "p0", None, ("blind", k)) for k in range(4)
    ]
    assert [g.request.extra.about for g in result.rollouts[0].extras] == [None] * 3 + [0, 1, 2, 3]
    assert result.metrics["extra/blind/responses"] == 4
    assert result.metrics["critic/score/mean"] == 0.375
    assert result.metrics["critic/rewards/mean"] == pytest.approx(mean)
    assert result.metrics["mars/prompts_kept"] == 1


def test_a_run_whose_hook_asks_nothing_is_the_run_without_it(prompts):
    """To the bit, with one engine call in each step."""
    table = make_table(prompts, random.Random(1))

    def run(change):
        made, tracker, checkpoints = change(parts(table)), RecordingTracker(), CheckpointsInMemory()
        fit(made, PromptStream(prompts, 3, 0, True), tracker, settings(3), None, checkpoints, START, 0, train_step)
        return without_times(tracker), list(made.trainer.batches), checkpoints.states, made.engine.requests

    assert run(lambda made: asking(made, Asks(before=False, after=False))) == run(lambda made: made)


def test_what_is_read_ahead_is_what_the_next_step_asks_first(prompts):
    made = asking(parts(make_table(prompts, random.Random(1))), Asks())
    stream, tracker = PromptStream(prompts, 3, 0, True), RecordingTracker()
    fit(made, stream, tracker, settings(1), None, CheckpointsInMemory(), START, 0, train_step)
    announced, made.engine.requests = made.engine.prefetched, []
    fit(made, stream, tracker, settings(2), None, CheckpointsInMemory(), START, 0, train_step)
    step_2 = made.engine.requests[len(made.engine.requests) // 2 :]
    assert announced == [request for request in step_2 if request.extra is None or request.extra.name != "blind"]


def test_extra_requests_have_seeds_of_their_own(prompts):
    made = asking(parts({}), Asks())
    requests = [request for request in made.plan.requests(prompts[:1], 5) if request.extra is not None]
    assert [r.seed for r in requests] == [request_seed(3, 5, "p0", None, (name, None)) for name in ("own", "noisy")]
    seeds = {request_seed(3, 5, "p0", None, extra) for extra in (None, ("a", None), ("a", 0), ("a", 1), ("b", None))}
    assert len(seeds) == 5


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
@pytest.mark.parametrize(("stopped_after", "hook"), some([(1, Asks), (3, Asks), (1, Outside)], 1))
def test_a_resumed_run_is_the_run_that_nobody_disturbed(prompts, stopped_after, hook, selection, schedule):
    """Groups of their own, guests and texts are carried and sampled ahead. p1 has no signal, so another is carried."""
    table = {key: 0.5 if key[0] == "p1" else s for key, s in make_table(prompts, random.Random(1)).items()}

    def run(start, last):
        made = asking(parts(table, selection=selection, max_rounds=1 if selection == "all" else 3), hook())
        config, stream, tracker = settings(last), PromptStream(prompts, 3, 0, True), RecordingTracker()
        step = train_step if schedule == "synchronous" else ahead_of(config, stream, max_staleness=2)
        checkpoints = CheckpointsInMemory()
        fit(made, stream, tracker, config, None, checkpoints, start, 0, step)
        return without_times(tracker), [batch.prompts for batch in made.trainer.batches], checkpoints.states

    rows, batches, states = run(START, 6)
    resumed_rows, resumed_batches, _ = run(saved_and_loaded(states[stopped_after], prompts), 6)
    assert (resumed_rows, resumed_batches) == (rows[stopped_after:], batches[stopped_after:])
    assert any(prompt.carried and prompt.prompt_token_ids == (2, 7) for some in batches for prompt in some) is (
        selection == "nonzero_advantage"
    ), "no groups of their own are carried"


class Damaged(RecordingEngine):
    """Cannot read the images of the extra requests of this name, of prompt p0."""

    def __init__(self, name):
        super().__init__(script, [EOS])
        self.name = name

    def generate(self, requests):
        requests = list(requests)
        bad = {i for i, r in enumerate(requests) if r.prompt_id == "p0" and r.extra and r.extra.name == self.name}
        for i in bad:
            yield [UnreadableRequest(i, "gone.png")]
        for samples in super().generate(requests):
            yield [sample for sample in samples if sample.request not in bad]


@pytest.mark.parametrize("name", ["own", "noisy", "blind"])
def test_a_prompt_whose_extra_request_cannot_be_read_is_left_out_with_all_its_views(prompts, name):
    made = asking(parts(make_table(prompts, random.Random(1))), Asks())
    made = replace(made, engine=Damaged(name))
    result = one_step(made, prompts[:2])
    assert {prompt.prompt_id for prompt in made.trainer.batches[0].prompts} == {"p1"}
    assert [bad.prompt_id for bad in result.state.quarantine.bad] == ["p0"]
    assert [item.prompt.prompt_id for item in result.rollouts] == ["p1"]


def test_guests_and_groups_of_their_own_pay_for_kl_and_length_and_lose_what_was_cut(prompts):
    """All responses of the group of its own are cut at 4 tokens, but for its first."""
    made = asking(parts({("p0", None, k): 0.25 * k for k in range(4)}, anchor="none", kl_in_reward=0.5,
                        mask_truncated=True, samples=4), Asks(after=False))  # fmt: skip
    made.trainer.kl_per_token = {"p0": 0.1}
    result = one_step(made, prompts[:1])
    (item,) = result.rollouts
    assert [(r.reward.score, r.reward.parts["kl_penalty"]) for r in item.extras[1].rollouts] == [
        (pytest.approx(0.4 - 0.05 * 2), pytest.approx(-0.05 * 2)), (pytest.approx(1.4 - 0.05 * 3), pytest.approx(-0.15))
    ]  # fmt: skip
    assert item.extras[0].rollouts[1].reward.score == pytest.approx(1.0 - 0.05 * 3)
    assert len(made.trainer.scored[0].prompts) == 1 + 1 + 1 + 1


def test_with_part_weights_every_trained_group_is_normalised_and_a_given_score_is_refused(prompts):
    made = asking(
        parts({("p0", None, k): 0.25 * k for k in range(4)}, anchor="none", part_weights={"part": 2.0}), Asks()
    )
    one_step(made, prompts[:1])
    responses = [r for prompt in made.trainer.batches[0].prompts for r in prompt.responses]
    assert len(responses) == 4 + 3 + 2
    assert sum(r.advantage**2 for r in responses) / (len(responses) - 1) == pytest.approx(1, rel=1e-4)

    class Told(Asks):
        def before(self, prompt, facts):
            return [Injected("told", "5", 1.0)]

    with pytest.raises(
        ConfigError, match=r"^recipe.requests: rows.jsonl:p0: told has a score without parts; give None"
    ):
        one_step(asking(parts({}, part_weights={"part": 2.0}), Told()), prompts[:1])


class Given(Asks):
    """Asks before what it is given."""

    def __init__(self, *asked):
        super().__init__(after=False)
        self.asked = asked

    def before(self, prompt, facts):
        return self.asked


def extra(text="?", **fields):
    given = {"name": "one", "role": "signal", "images": (), "truth": "yes", "num_samples": 1} | fields
    text = "<image>" * len(given["images"]) + text
    return Extra(**{"messages": (Message("user", text),)} | given)


@pytest.mark.parametrize(
    ("asked", "why"),
    [(extra("special"), "a special token"),
     (extra(images=(IMAGE,) * 3), "5 tokens, 4 are allowed (data.max_prompt_tokens)"),
     (Injected("one", "special", None), "a special token"),
     (Injected("one", "5" * 16, None), "17 tokens, want 1 to 16 (rollout.max_response_tokens)"),
     (Injected("one", "", 1.0, ends=False), "0 tokens, want 1 to 16")],
)  # fmt: skip
def test_what_cannot_be_asked_has_a_group_without_rollouts_and_is_counted(prompts, caplog, asked, why):
    made = asking(parts({("p0", None, k): 0.25 * k for k in range(4)}, anchor="none"), Given(asked), 4)
    result = one_step(made, prompts[:1])
    (group,) = result.rollouts[0].extras
    assert (group.rollouts, group.request.num_samples) == ((), 0)
    assert (result.metrics["extra/one/left_out"], result.metrics["extra/one/responses"]) == (1, 0)
    assert f"the extra request one is left out: {why}" in caplog.text
    assert len(made.trainer.batches[0].prompts[0].responses) == 4


@pytest.mark.parametrize(
    ("asked", "problem"),
    [(extra(name="a/b"), "the name 'a/b'; use letters, digits"),
     (extra(name="forced_source"), "the name 'forced_source'; choose another; anchor.kind=forced_source has it"),
     (extra(role="other"), "one has role 'other'; use signal, own_group, guest"),
     (extra(role="guest", truth=None), "one has role guest without a truth; what is trained on needs a score"),
     (extra(in_pool=False), "one has role signal with in_pool=False; only a guest is in the pool"),
     (extra(num_samples=0), "one has num_samples=0; ask for 1 or more"),
     (extra(images=(IMAGE,) * 4), "one has 4 images; the run's rows have at most 3"),
     (extra(view=("s7",)), r"one has view \('s7',\); name sources of the row: s0"),
     (extra(about=0), "one has about=0; the view has 0 rollouts so far"),
     (extra(sampling=replace(MULTI, temperature=0.001)), "one has temperature=0.001; give 0, which is greedy, or 0.01"),
     (extra(sampling=replace(MULTI, temperature=-1.0)), "one has temperature=-1.0; give 0"),
     (extra(sampling=replace(MULTI, temperature=math.nan)), "one has temperature=nan; give 0"),
     (extra(sampling=replace(MULTI, top_p=0.0)), "one has top_p=0.0; give a number > 0 and <= 1"),
     (extra(sampling=replace(MULTI, top_k=-1)), r"one has top_k=-1; give an integer >= 0 \(0: all\)"),
     (extra(sampling=replace(MULTI, max_response_tokens=0)), "one has max_response_tokens=0; give 1 or more"),
     (extra(sampling=replace(MULTI, max_response_tokens=17)), "one has max_response_tokens=17; rollout.max_response"),
     (extra(role="own_group", sampling=replace(MULTI, temperature=0.5)), "only its length may differ"),
     ("text", "asks for a str; give Extra or Injected"),
     (extra(images=(IMAGE,), messages=(Message("user", "no marker"),)), "one has 0 <image> for 1 images; write one"),
     (extra("<image>"), "one has 1 <image> for 0 images; write one <image> for each image"),
     (extra(messages=(Message("tool", "?"),)), "one has message role 'tool'; use system, user, assistant"),
     (Injected("one", "5", float("nan")), r"one has score nan; give a number within -1e\+06 to 1e\+06"),
     (Injected("one", "5", -1e9), "one has score -1000000000.0; give a number within")],
)  # fmt: skip
def test_a_wrong_request_ends_the_run_with_its_row(prompts, asked, problem):
    with pytest.raises(ConfigError, match=rf"^recipe\.requests: rows\.jsonl:p0: .*{problem}"):
        one_step(asking(parts({}), Given(asked)), prompts[:1])
