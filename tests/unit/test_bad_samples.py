"""A prompt that cannot be read costs itself and nothing else; too many of them end the run. With fakes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.checkpoint.resume import none_added, starting_point
from mars.data.order.stream import PromptStream
from mars.errors import DataError
from mars.fit import fit
from mars.quarantine import BadPrompt, BadSamples, Quarantine, num_allowed
from mars.run_dir.bad_prompts import BadPromptEvents
from mars.run_dir.events import EVENTS_FILE, EventLog, read_events
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.train import TrainingJob, train
from tests.builders import make_prompt, train_config
from tests.fakes.step import IMAGE, Rounds, parts
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer
from tests.unit.test_fit import random_parts, without_times
from tests.unit.test_step import expected_advantages, make_table, seen_advantages

NOTHING = SamplingState(0, ())
GONE = "gone.png: no such image"


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(12)]


def limits(prompts, max_fraction=1.0, window=1000, report=lambda prompt, row, step: None):
    return BadSamples(max_fraction, window, {prompt.prompt_id: prompt for prompt in prompts}, report)


def names(items):
    return [item.prompt_id for item in items]


def asked(made):
    return list(dict.fromkeys(request.prompt_id for request in made.engine.requests))


# --- how bad prompts are counted


def test_prompts_are_numbered_as_they_are_tried(prompts):
    first = Quarantine().after(prompts[:3], {"p1": "a"})
    second = first.after(prompts[3:5], {"p4": "b", "p3": "c"})
    assert (second.tried, [(bad.prompt_id, bad.number, bad.reason) for bad in second.bad]) == (
        5, [("p1", 2, "a"), ("p3", 4, "c"), ("p4", 5, "b")],
    )  # fmt: skip
    assert second.with_lost({"p0": "d"}).bad[-1] == BadPrompt("p0", 5, "d")
    assert second.prompt_ids == {"p1", "p3", "p4"}


@pytest.mark.parametrize("seed", range(20))
def test_the_fullest_window_is_that_of_a_slow_search(seed):
    rng = random.Random(seed)
    length, window = rng.randint(1, 40), rng.randint(1, 12)
    is_bad = [rng.random() < 0.3 for _ in range(length)]
    bad = tuple(BadPrompt(str(i), i + 1, "") for i in range(length) if is_bad[i])
    slow = max(sum(is_bad[first : first + window]) for first in range(length))
    assert Quarantine(length, bad).most_in(window) == slow


@pytest.mark.parametrize(
    ("fraction", "number", "allowed"),
    [(0.05, 1000, 50), (0.05, 100, 5), (0.05, 39, 1), (0.05, 1, 1), (1e-9, 10, 1), (0.0, 1000, 0), (0.29, 100, 29),
     (0.07, 100, 7), (1.0, 8, 8), (0.5, 3, 1)],
)  # fmt: skip
def test_one_bad_sample_is_always_allowed_unless_none_is(fraction, number, allowed):
    assert num_allowed(fraction, number) == allowed


@pytest.mark.parametrize(
    ("fraction", "window", "bad_at", "ends_at"),
    [
        (0.25, 8, [1, 2, 3], 3),  # two of eight are allowed, also among the first prompts of a run
        (0.25, 8, [1, 2, 10, 11, 18], None),
        (0.25, 8, [1, 9, 10, 16, 17], 16),  # 9, 10 and 16 are among eight consecutive ones
        (0.05, 8, [1], None),  # less than one of eight is allowed, but the first never ends a run
        (0.05, 8, [1, 8], 8),
        (0.05, 8, [1, 9], None),
        (0.0, 8, [5], 5),
        (1.0, 8, list(range(1, 20)), None),
        (0.5, 1000, list(range(1, 13)), 11),  # a window is at most the set: ten of its twenty prompts
    ],
)
def test_the_run_ends_when_a_window_has_too_many(fraction, window, bad_at, ends_at):
    prompts = [make_prompt(f"p{i}") for i in range(1, 21)]
    reported = []
    samples = limits(
        prompts, fraction, window, lambda prompt, row, step: reported.append((prompt.prompt_id, row, step))
    )
    quarantine, ended = Quarantine(), None
    for i, prompt in enumerate(prompts, 1):
        try:
            quarantine = samples.tried(quarantine, [prompt], {prompt.prompt_id: GONE} if i in bad_at else {}, step=i)
        except DataError as error:
            ended, message = i, str(error)
            break
    assert ended == ends_at
    assert reported == [(f"p{i}", f"rows.jsonl:p{i}", i) for i in bad_at if ended is None or i <= ended]
    if ended is not None:
        assert message.startswith(f"rows.jsonl:p{ended}: step {ended}: {GONE}; with this prompt, ")
        counted = f"of {min(window, 20)} consecutive prompts cannot be read"
        assert f"{counted}, and data.max_bad_fraction={fraction:g} allows" in message


def test_a_window_within_a_round_is_seen_and_a_run_without_a_good_prompt_ends(prompts):
    """Three bad ones begin a round of twelve: they are no longer among its last four."""
    early = dict.fromkeys(names(prompts[:3]), GONE)
    with pytest.raises(DataError, match="3 of 4 consecutive prompts"):
        limits(prompts, 0.5, 4).tried(Quarantine(), prompts, early, 1)
    with pytest.raises(DataError, match=r"12 of 12 consecutive prompts .* allows 12"):
        limits(prompts, 1.0).tried(Quarantine(), prompts, dict.fromkeys(names(prompts), GONE), 1)


# --- a step


@pytest.mark.parametrize("view", [None, ("s0",)])
@pytest.mark.parametrize("anchor", ["mono", "all_but_one"])
def test_the_step_trains_on_the_others_and_does_not_ask_again(prompts, view, anchor):
    """Also where only one of the views cannot be read, whatever was sampled of the others."""
    table = make_table(prompts, random.Random(0), anchor=anchor)
    made = replace(parts(table, anchor=anchor), bad_samples=limits(prompts))
    bad = "p5" if view is None or anchor == "mono" else "p1"  # p1 has two sources: all but one are ("s0",)
    made.engine.unreadable = {(bad, view): GONE}
    first = train_step(made, Rounds(prompts, 6), NOTHING, 1)
    assert first.state.quarantine == Quarantine(6, (BadPrompt(bad, int(bad[1:]) + 1, GONE),))
    good = [f"p{i}" for i in range(6) if f"p{i}" != bad]
    assert names(made.trainer.batches[0].prompts) == good
    assert [item.prompt.prompt_id for item in first.rollouts] == good
    assert (first.metrics["mars/prompts_kept"], first.metrics["mars/prompts_sampled"]) == (5, 5)
    seen = seen_advantages(made.trainer)
    for name in good:
        assert seen[name] == pytest.approx(expected_advantages(table, name), rel=1e-9)
    assert "mars/frac_undefined" in first.metrics, "the bad prompt is none without an advantage"
    assert first.metrics["mars/frac_undefined"] == 0
    second = train_step(made, Rounds(prompts, 6), first.state, 2)
    made.engine.requests.clear()
    third = train_step(made, Rounds(prompts, 6), second.state, 3)  # the same prompts as in the first step
    assert asked(made) == good
    assert third.state.quarantine == replace(first.state.quarantine, tried=6 + 6 + 5)


def test_dynamic_sampling_takes_other_prompts_from_the_stream(prompts):
    made = parts(make_table(prompts, random.Random(0)), selection="nonzero_advantage", max_rounds=5)
    made = replace(made, bad_samples=limits(prompts))
    made.engine.unreadable = {("p0", None): GONE, ("p2", None): GONE}
    result = train_step(made, Rounds(prompts, 4), NOTHING, 1)
    assert names(made.trainer.batches[0].prompts) == ["p1", "p3", "p4", "p5"]
    assert [item.rollouts.prompt.prompt_id for item in result.state.carried] == ["p6", "p7"]
    assert (result.metrics["mars/rounds"], result.state.quarantine.tried) == (2, 8)


def test_a_small_set_is_used_up_without_its_bad_prompts(prompts):
    made = parts(make_table(prompts, random.Random(0)), selection="nonzero_advantage", max_rounds=10)
    made = replace(made, bad_samples=limits(prompts[:5]))
    made.engine.unreadable = {("p3", None): GONE}
    result = train_step(made, Rounds(prompts[:5], 5), NOTHING, 1)
    assert (result.metrics["mars/rounds"], result.metrics["mars/prompts_kept"]) == (1, 4)


def test_a_round_of_which_nothing_can_be_read_updates_nothing(prompts):
    made = replace(parts(make_table(prompts, random.Random(0)), kl_in_reward=0.5), bad_samples=limits(prompts))
    made.engine.unreadable = dict.fromkeys([("p0", None), ("p1", None)], GONE)
    result = train_step(made, Rounds(prompts, 2), NOTHING, 1)
    assert (made.trainer.batches, made.trainer.scored, made.engine.updates) == ([], [], [])
    assert (result.rollouts, result.metrics["mars/prompts_kept"]) == ([], 0)


def test_too_many_end_the_step_before_anything_is_trained(prompts):
    made = replace(parts(make_table(prompts, random.Random(0))), bad_samples=limits(prompts, 0.1))
    made.engine.unreadable = dict.fromkeys([("p0", None), ("p1", None)], GONE)
    with pytest.raises(DataError, match=r"rows\.jsonl:p1: step 1: gone\.png") as raised:
        train_step(made, Rounds(prompts, 4), NOTHING, 1)
    assert raised.value.exit_code == 3
    assert made.trainer.batches == []


def test_a_prompt_that_the_trainer_cannot_read_is_not_sampled_again(prompts):
    trainer = RecordingTrainer()
    made = replace(parts(make_table(prompts, random.Random(0)), trainer=trainer), bad_samples=limits(prompts))
    trainer.unreadable = {"p1": GONE}
    state = train_step(made, Rounds(prompts[:4], 4), NOTHING, 1).state
    assert state.quarantine == Quarantine(4, (BadPrompt("p1", 4, GONE),))
    made.engine.requests.clear()
    train_step(made, Rounds(prompts[:4], 4), state, 2)
    assert asked(made) == ["p0", "p2", "p3"]


def test_a_prompt_that_the_reference_cannot_read_is_left_out(prompts):
    """Its rewards have no KL penalty, so they must not be compared with the others."""
    trainer = RecordingTrainer()
    trainer.kl_per_token, trainer.unreadable = {"p0": 0.01, "p2": 0.02}, {"p1": GONE}
    table = make_table(prompts, random.Random(0))
    made = replace(parts(table, trainer=trainer, kl_in_reward=1.0), bad_samples=limits(prompts))
    result = train_step(made, Rounds(prompts, 3), NOTHING, 1)
    assert names(trainer.batches[0].prompts) == ["p0", "p2"]
    assert result.state.quarantine.prompt_ids == {"p1"}
    for item, per_token in zip(result.rollouts, (0.01, 0.02), strict=True):
        for group in (item.multi, *item.anchors):
            for k, rollout in enumerate(group.rollouts):
                score = table[item.prompt.prompt_id, group.request.view, k]
                assert rollout.reward.score == pytest.approx(score - per_token * (k + 2))


# --- a run


def job_of(folder, prompts, num_steps, unreadable, max_fraction=0.5):
    """unreadable: what the engine cannot read from the start. p4 is lost to the trainer."""
    settings = {"run.num_steps": num_steps, "run.dir": str(folder), "checkpoint.every": 2, "actor.num_workers": 1,
                "evaluation.before_training": False, "evaluation.every": 0}  # fmt: skip
    events, tracker, trainer = EventLog(folder / EVENTS_FILE), RecordingTracker(), RecordingTrainer()
    trainer.unreadable = {"p4": "p4.png: no such image"}
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    report = BadPromptEvents(events, folder)
    made = replace(random_parts(trainer=trainer), bad_samples=limits(prompts, max_fraction, 100, report))
    made.engine.unreadable = unreadable
    catalogue = Catalogue(folder / CHECKPOINTS_FOLDER, events)
    stream = PromptStream(prompts, 3, 0, True)
    config = train_config(settings)
    loop = partial(fit, made, stream, config=config, evaluate=None, num_dropped=0)
    return TrainingJob(config, trainer, 1, loop, lambda start: tracker, catalogue, by_id, "data"), tracker


def trained(folder, prompts, num_steps, unreadable, resume=False, **settings):
    folder.mkdir(exist_ok=True)
    job, tracker = job_of(folder, prompts, num_steps, unreadable, **settings)
    end = train(job, starting_point(job.catalogue, resume, job.prompts, "data", none_added))
    return end, tracker


def quarantined(folder):
    return [entry for entry in read_events(folder) if entry["event"] == "prompt_quarantined"]


def test_a_resumed_run_is_the_uninterrupted_one_and_every_bad_prompt_is_one_event(prompts, tmp_path):
    prompts = prompts[:8]
    unreadable = {("p1", None): "p1.png: no such image", ("p6", None): "p6.png: cannot be decoded"}
    whole, all_rows = trained(tmp_path / "whole", prompts, 6, unreadable)
    assert whole.sampling.quarantine.prompt_ids == {"p1", "p4", "p6"}
    counts = [metrics["data/quarantined"] for _, metrics in all_rows.metrics]
    assert (counts, counts[-1]) == (sorted(counts), 3)
    for first in (2, 4):
        folder = tmp_path / f"resumed_{first}"
        before, _ = trained(folder, prompts, first, unreadable)
        # What happened after the checkpoint is lost, and repeated: here everything, because p6 was noted twice.
        EventLog(folder / EVENTS_FILE).log("prompt_quarantined", first, prompt_id="p6")
        assert before.sampling.quarantine.bad == whole.sampling.quarantine.bad[: len(before.sampling.quarantine.bad)]
        after, rows = trained(folder, prompts, 6, unreadable, resume=True)
        assert after.sampling == whole.sampling
        assert without_times(rows) == without_times(all_rows)[first:]
    events = quarantined(tmp_path / "whole")
    assert sorted(entry["details"]["prompt_id"] for entry in events) == ["p1", "p4", "p6"]
    (p1,) = [entry for entry in events if entry["details"]["prompt_id"] == "p1"]
    assert p1["details"] == {"prompt_id": "p1", "row": "rows.jsonl:p1", "reason": "p1.png: no such image"}


def test_a_prompt_that_was_noted_is_not_noted_again(tmp_path):
    for _ in range(2):
        report = BadPromptEvents(EventLog(tmp_path / EVENTS_FILE), tmp_path)
        for _ in range(2):
            report(BadPrompt("p1", 3, GONE), "rows.jsonl:1", 7)
    (event,) = quarantined(tmp_path)
    assert (event["step"], event["details"]["reason"]) == (7, GONE)


def test_a_run_that_ends_for_bad_prompts_has_noted_all_of_them(prompts, tmp_path):
    unreadable = {(f"p{i}", None): f"p{i}.png: no such image" for i in range(8)}
    with pytest.raises(DataError, match=r"data\.max_bad_fraction=0\.25 allows 2"):
        trained(tmp_path / "run", prompts[:8], 6, unreadable, max_fraction=0.25)
    assert len(quarantined(tmp_path / "run")) == 3  # the first round, of which all were bad
