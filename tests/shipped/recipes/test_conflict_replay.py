"""recipe/effect/conflict_replay.py: which prompts wait, what rounds have, and a state that gives the same again."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.checkpoint.state import START
from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.fit import fit
from mars.hooks.load import load_sampler, resolved, with_resolved_recipe
from mars.hooks.prompt_sampler import SampledRounds
from mars.plugin import load, resolve
from mars.step import train_step
from mars.types import RewardResult
from tests.builders import make_prompt, make_rollouts
from tests.examples import examples
from tests.fakes.step import parts
from tests.fakes.tracker import RecordingTracker
from tests.shipped.recipes.recipe_files import ROOT, compose
from tests.shipped.recipes.sampler_runs import PROMPTS, SETUP
from tests.unit.test_fit import without_times
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, saved_and_loaded
from tests.unit.test_step_async import settings as run_settings

FOLDER = ROOT / "recipe" / "effect"
SPEC = f"{FOLDER / 'conflict_replay.py'}:ConflictReplay"
SINGLE = replace(SETUP, sets=(tuple(PROMPTS),))


def recipe() -> ModuleType:
    return load("test", resolve("test", SPEC, "a file"), "anything", classes=True).module


RECIPE = recipe()
SETTINGS = RECIPE.Settings(share=0.5, right_from=0.5, look="anchors")
NONE = frozenset[str]()


def sampler(setup=SETUP, **changes):
    return RECIPE.ConflictReplay(setup, replace(SETTINGS, **changes))


def accurate(accuracies):
    return [None if a is None else RewardResult(-1.0, a, {}) for a in accuracies]


def item(prompt, multi, *anchors):
    return make_rollouts(prompt, accurate(multi), **{f"s{i}": accurate(some) for i, some in enumerate(anchors)})


def names(prompts):
    return [prompt.prompt_id for prompt in prompts]


def waiting(made):
    return made.state()["waiting"]


@pytest.mark.parametrize(
    ("multi", "anchors", "by_anchors", "by_multi"),
    [
        ([0, 0], [[1], [0]], True, True),
        ([0, 0], [[0], [0]], False, True),
        ([0, 1], [[1], [1]], False, False),
        ([0.4, None], [[0.5]], True, True),
        ([0, 0], [], False, True),
        ([0, 0], [[None]], False, True),
        ([None, 0.5], [[1]], False, False),
    ],
)
def test_who_waits_by_hand(multi, anchors, by_anchors, by_multi):
    for look, expected in (("anchors", by_anchors), ("multi", by_multi)):
        made = sampler(look=look)
        assert made.observe([item(PROMPTS[0], multi, *anchors)], 1)["waiting"] == expected
        assert waiting(made) == ["p0"] * expected


def test_rounds_by_hand():
    """Rounds of 4 from a, b, ... in file order; two may be drawn again. b, c, d get into conflict in the first one."""
    prompts = [make_prompt(name) for name in "abcdefgh"]
    by_name = dict(zip("abcdefgh", prompts, strict=True))
    made = sampler(replace(SETUP, sets=(tuple(prompts),), shuffle=False, prompts_per_step=4))
    conflict, right = ([0, 0], [1]), ([0, 1], [1])
    assert names(made.batch(0, NONE)) == ["a", "b", "c", "d"]
    metrics = made.observe([item(by_name["a"], *right), *(item(by_name[name], *conflict) for name in "bcd")], 1)
    assert metrics == {"waiting": 3, "again": 0}
    assert names(made.batch(1, NONE)) == ["b", "e", "c", "f"]
    seen = [item(by_name["e"], *conflict), item(by_name["f"], *right)]
    metrics = made.observe([*seen, item(by_name["b"], *right), item(by_name["c"], *conflict)], 2)
    assert metrics == {"waiting": 3, "again": 0.5, "solved": 0.5}
    assert waiting(made) == ["d", "e", "c"], "c has just been visited"
    assert names(made.batch(2, frozenset({"e"}))) == ["d", "g", "c", "h"]  # e cannot be read
    made.observe([item(by_name["d"], [None, None], [1]), item(by_name["c"], [0, 0], [0])], 3)
    assert waiting(made) == ["d"], "nothing is known of d, no anchor of c is right any more, e would wait for ever"
    # The next epoch begins. After a, b and c it is the turn of d, which was drawn again before.
    assert names(made.batch(3, NONE)) == ["a", "d", "b", "c"]
    made.observe([item(by_name[name], *right) for name in "abcd"], 4)
    assert names(made.batch(4, NONE)) == ["d", "e", "f", "g"]


def test_a_prompt_whose_responses_cannot_be_scored_does_not_hold_up_the_others():
    """One of 4 may be drawn again. p0 fails from the second step on, and takes its turn behind those that wait."""
    prompts = tuple(make_prompt(f"p{i}") for i in range(20))
    made, again = sampler(replace(SETUP, sets=(prompts,), prompts_per_step=4, shuffle=False), share=0.25), []
    for step in range(5):
        shown = made.batch(step, NONE)
        again += made.state()["drawn"]
        failed = [None, None]
        made.observe([item(p, failed if p.prompt_id == "p0" and step else [0, 0], [1]) for p in shown], step)
    assert again == ["p0", "p1", "p2", "p3"]
    assert "p0" in waiting(made)


@pytest.mark.parametrize(("share", "size", "number"), [(0.29, 100, 29), (0.57, 100, 57), (0.58, 50, 29), (0.5, 5, 2)])
def test_the_share_is_not_rounded_down_by_a_whole_prompt(share, size, number):
    prompts = [make_prompt(f"p{i:03}") for i in range(2 * size)]
    made = sampler(replace(SETUP, sets=(tuple(prompts),), prompts_per_step=size), share=share)
    made.observe([item(prompt, [0, 0], [1]) for prompt in prompts], 1)
    made.batch(0, NONE)
    assert len(made.state()["drawn"]) == number


def test_a_step_of_several_rounds_draws_a_prompt_again_once():
    made = sampler()
    conflicts = [item(prompt, [0, 0], [1]) for prompt in PROMPTS[:2]]
    made.observe(conflicts, 1)
    rounds = [names(made.batch(number, NONE)) for number in range(3)]
    assert (rounds[0][1], rounds[1][1]) == ("p0", "p1"), "one of three, in the middle"
    assert made.state()["drawn"] == ["p0", "p1"]
    made.observe(conflicts, 2)
    assert "p0" in names(made.batch(3, NONE))


def test_a_prompt_that_is_drawn_again_in_the_round_of_its_turn_is_there_once():
    prompts = [make_prompt(name) for name in "abcd"]
    made = sampler(replace(SETUP, sets=(tuple(prompts),), shuffle=False, prompts_per_step=2))
    made.observe([item(prompts[0], [0, 0], [1])], 1)
    assert names(made.batch(0, NONE)) == ["a", "b"]
    assert names(made.batch(1, NONE)) == ["c", "d"]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("changes", [{"share": 0.0}, {}])
def test_with_nothing_to_draw_again_the_rounds_are_those_without_a_sampler(shuffle, changes):
    setup = replace(SINGLE, shuffle=shuffle, prompts_per_step=5)
    stream, made = PromptStream(PROMPTS, 5, setup.seed, shuffle), sampler(setup, **changes)
    for round in range(7):
        if changes:
            made.observe([item(prompt, [0, 0], [1]) for prompt in PROMPTS], round + 1)
        assert tuple(made.batch(round, NONE)) == stream.batch(round)


def test_mixing_is_even():
    letters, numbers = [make_prompt(name) for name in "ab"], [make_prompt(str(i)) for i in range(1, 7)]
    assert "".join(names(RECIPE.spread(letters, numbers))) == "1a234b56"
    assert RECIPE.spread([], numbers) == numbers
    assert RECIPE.spread(letters, []) == letters


def step_of(made, step, seed):
    """Rounds of a step, and metrics of what it is shown: any accuracies, some failed, some prompts not read."""
    rng = random.Random(f"{seed}:{step}")
    left_out = frozenset(prompt.prompt_id for prompt in rng.sample(PROMPTS, rng.randrange(3)))
    rounds = [made.batch(2 * step + i, left_out) for i in range(rng.randint(1, 2))]
    shown = {prompt.prompt_id: prompt for one in rounds for prompt in one}.values()
    values = lambda count: rng.choices([0, 0, 0, 1, None], k=count)  # noqa: E731
    return rounds, made.observe([item(p, values(3), *(values(1) for _ in p.sources)) for p in shown], step), left_out


@examples(25)
@given(
    seed=st.integers(0, 10**6), stopped_after=st.integers(0, 8), share=st.sampled_from([0.0, 0.34, 0.7, 1.0]),
    look=st.sampled_from(["anchors", "multi"]),
)  # fmt: skip
def test_a_restored_state_gives_the_same_rounds_and_metrics(seed, stopped_after, share, look):
    """In a new object, and in one that has observed something else meanwhile."""
    whole, new, other = (sampler(share=share, look=look) for _ in range(3))
    for step in range(stopped_after):
        step_of(whole, step, seed)
    state = json.dumps(whole.state())
    step_of(other, 0, seed + 1)
    expected = [step_of(whole, step, seed) for step in range(stopped_after, stopped_after + 4)]
    for resumed in (new, other):
        resumed.restore(json.loads(state))
        assert json.dumps(resumed.state()) == state
        assert [step_of(resumed, step, seed) for step in range(stopped_after, stopped_after + 4)] == expected


@examples(25)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.34, 0.7, 1.0]))
def test_rounds_are_full_and_have_no_more_than_the_share_of_what_waits(seed, share):
    made = sampler(share=share, look="multi")
    for step in range(12):
        waited = set(waiting(made))
        rounds, metrics, left_out = step_of(made, step, seed)
        for one in rounds:
            ids = names(one)
            assert len(set(ids)) == len(ids) == SETUP.prompts_per_step
            assert not set(ids) & left_out
        assert metrics["again"] <= len(rounds) * int(share * 3) / len({name for one in rounds for name in names(one)})
        if share == 1 and len(waited - left_out) >= 3:
            assert set(names(rounds[0])) <= waited


def test_a_state_may_name_prompts_that_are_gone():
    made = sampler()
    made.observe([item(prompt, [0, 0], [1]) for prompt in PROMPTS[:4]], 1)
    made.batch(0, NONE)
    left = RECIPE.ConflictReplay(replace(SETUP, sets=(tuple(PROMPTS[2:]),)), SETTINGS)
    left.restore(json.loads(json.dumps(made.state())))
    assert left.state()["waiting"] == ["p2", "p3"]
    assert left.state()["drawn"] == []
    assert len(left.batch(1, NONE)) == 3


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
def test_a_resumed_run_is_the_run_that_nobody_disturbed(schedule, selection):
    """Rewards of multi responses are mostly wrong, those of anchors often right."""
    rng = random.Random(3)
    table = {key: float(rng.random() < (0.1 if key[1] is None else 0.4)) for key in make_table(PROMPTS, rng)}

    def run(start, last=6):
        rounds = load_sampler(resolved(compose(FOLDER, "conflict_replay_tiny").recipe), SETUP, known=None, ramps=[])
        assert isinstance(rounds, SampledRounds)
        checkpoints, tracker, config = CheckpointsInMemory(), RecordingTracker(), run_settings(last)
        made = parts(table, selection=selection, max_rounds=1 if selection == "all" else 3)
        step = train_step if schedule == "synchronous" else ahead_of(config, rounds, max_staleness=2)
        fit(made, rounds, tracker, config, None, checkpoints, start, 0, step)
        return [batch.prompts for batch in made.trainer.batches], checkpoints.states, without_times(tracker)

    whole, states, rows = run(START)
    assert len(rows) == 6
    assert max(row["sampler/again"] for _, row in rows) > 0
    for stopped_after in (1, 3, 5):
        batches, _, rest = run(saved_and_loaded(states[stopped_after], PROMPTS))
        assert batches == whole[len(whole) - len(batches) :]
        assert rest == rows[stopped_after:]


@pytest.mark.parametrize(
    "changes", [{"share": 1.1}, {"share": -0.1}, {"right_from": 0.0}, {"right_from": 1.5}]
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ValueError, match="want share in"):
        sampler(**changes)


@pytest.mark.parametrize("look", ["anchors", "multi"])
def test_it_needs_anchors_and_no_weights(look):
    chosen = f"recipe.settings.conflict_replay.look={look}"
    config = compose(FOLDER, "conflict_replay_tiny", chosen)
    assert with_resolved_recipe(config).recipe.settings["conflict_replay"]["look"] == look
    with pytest.raises(ConfigError, match=r"^anchor\.kind: not a value that the hooks of .*conflict_replay\.py"):
        with_resolved_recipe(compose(FOLDER, "conflict_replay_tiny", chosen, "anchor=none"))
    with pytest.raises(ConfigError, match=r"^data\.weights: not a value that the hooks"):
        with_resolved_recipe(compose(FOLDER, "conflict_replay_tiny", chosen, "data.weights=[1.0]"))
