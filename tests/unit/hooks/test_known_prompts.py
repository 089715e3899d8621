"""Rows that a sampler reads while a run trains: read once, known from then on, and known again to a resumed run."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.checkpoint.state import START, state_lines, stored_state, with_prompts
from mars.errors import CheckpointError, ConfigError
from mars.fit import fit
from mars.hooks.contract import SamplerSetup
from mars.hooks.known_prompts import KnownPrompts, RowsFile
from mars.hooks.prompt_sampler import SampledRounds
from mars.step import train_step
from tests.builders import make_prompt
from tests.fakes.step import IMAGE, parts
from tests.fakes.tracker import RecordingTracker
from tests.unit.test_fit import without_times
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, settings

GIVEN = [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(4)]
ADDED = {f"{k}.jsonl": [make_prompt(f"new{k}{i}", [IMAGE] * 2, extra_info={"name": f"new{k}{i}"}) for i in range(2)]
         for k in range(4)}  # fmt: skip
ALL = [*GIVEN, *(prompt for prompts in ADDED.values() for prompt in prompts)]


class Folder:
    """Files of rows. asked: how often each was read."""

    def __init__(self, files=ADDED):
        self.files = {name: RowsFile(tuple(prompts), f"contents of {name}", 1) for name, prompts in files.items()}
        self.asked = []

    def read(self, name):
        self.asked.append(name)
        return self.files.get(name, RowsFile((), "", 0))


def known_in(folder, prompts=GIVEN):
    return KnownPrompts({prompt.prompt_id: prompt for prompt in prompts}, folder.read)


# --- the table


def test_a_file_is_read_once_and_its_prompts_are_known():
    folder = Folder()
    known = known_in(folder)
    assert (known.metrics(), known.state()) == ({}, [])
    assert known.read("0.jsonl") == tuple(ADDED["0.jsonl"]) == known.read("0.jsonl")
    assert known.read("missing.jsonl") == ()
    assert folder.asked == ["0.jsonl", "missing.jsonl"]
    assert list(known.prompts) == ["p0", "p1", "p2", "p3", "new00", "new01"]
    assert known.metrics() == {"rows_added": 2.0, "rows_refused": 1.0}
    assert known.state() == [["0.jsonl", "contents of 0.jsonl", []], ["missing.jsonl", "", []]]


def test_rows_of_a_file_with_the_same_contents_are_left_out(caplog):
    folder = Folder()
    folder.files["copy.jsonl"] = folder.files["0.jsonl"]
    folder.files["of_the_start.jsonl"] = RowsFile((GIVEN[0], make_prompt("own")), "x", 0)
    known = known_in(folder)
    known.read("0.jsonl")
    assert known.read("copy.jsonl") == ()
    assert [prompt.prompt_id for prompt in known.read("of_the_start.jsonl")] == ["own"]
    assert known.metrics() == {"rows_added": 3.0, "rows_refused": 1.0 + (1 + 2) + 1}
    assert "copy.jsonl: 2 of its rows are in a file with the same contents" in caplog.text


def test_rows_whose_id_another_file_has_are_left_out(caplog):
    def row(prompt_id, declared):
        return make_prompt(prompt_id, extra_info={"id": declared})

    files = {"0.jsonl": [row("x", "a"), row("y", "b"), make_prompt("z")], "1.jsonl": [row("v", "b"), row("w", "c")]}
    given = [row("p", "a"), make_prompt("q")]
    known = KnownPrompts({p.prompt_id: p for p in given}, Folder(files).read, lambda p: p.extra_info.get("id"))
    assert [prompt.prompt_id for prompt in known.read("0.jsonl")] == ["y", "z"]
    assert [prompt.prompt_id for prompt in known.read("1.jsonl")] == ["w"]
    assert list(known.prompts) == ["p", "q", "y", "z", "w"]
    assert known.metrics() == {"rows_added": 3.0, "rows_refused": (1.0 + 1) + (1 + 1)}
    assert "0.jsonl: 1 of its rows have the extra_info.id of another" in caplog.text


@given(st.lists(st.sampled_from([*ADDED, "missing.jsonl"]), max_size=6))
def test_a_new_process_knows_the_same_prompts_again(files):
    before, after = known_in(Folder()), known_in(Folder())
    for name in files:
        before.read(name)
    after.restore(json.loads(json.dumps(before.state())))
    assert after.prompts == before.prompts
    assert after.state() == before.state()
    folder = Folder()
    again = known_in(folder)
    again.recall(before.state())
    again.restore(before.state())
    assert sorted(folder.asked) == sorted({*files} - {"missing.jsonl"}), "what could not be read is not tried again"


def test_a_file_that_has_changed_is_left_out_until_it_is_back(caplog):
    known = known_in(Folder())
    known.read("0.jsonl")
    known.read("1.jsonl")
    changed = Folder()
    changed.files["0.jsonl"] = RowsFile((make_prompt("other"),), "other contents", 0)
    resumed = known_in(changed)
    resumed.restore(known.state())
    assert list(resumed.prompts) == ["p0", "p1", "p2", "p3", "new10", "new11"]
    assert resumed.read("0.jsonl") == ()
    assert "0.jsonl: not the file that the run has read before; its rows are left out" in caplog.text
    back = known_in(Folder())
    back.restore(resumed.state())
    assert list(back.prompts) == list(known.prompts)


def test_a_run_that_goes_back_counts_the_files_of_its_state_alone():
    """After a lost trainer a process goes on from an older checkpoint."""
    folder = Folder()
    known = known_in(folder)
    known.read("0.jsonl")
    older = known.state()
    known.read("1.jsonl")
    known.restore(older)
    assert (known.state(), known.metrics()["rows_added"]) == (older, 2.0)
    known.read("1.jsonl")
    assert folder.asked == ["0.jsonl", "1.jsonl"]


def with_ids():
    """A folder whose files have a row "a" each, and what knows no prompt yet."""
    files = {
        f"{k}.jsonl": [make_prompt(f"{k}a", extra_info={"id": "a"}), make_prompt(f"{k}b", extra_info={"id": f"{k}b"})]
        for k in range(2)
    }
    folder = Folder(files)
    return folder, KnownPrompts({}, folder.read, lambda prompt: prompt.extra_info.get("id"))


def test_a_new_process_knows_the_rows_of_a_run_that_went_back_and_added_files_in_another_order():
    """The run reads 0 and leaves row a of 1 out. It goes back to its start, and then 1 is the first to be added."""
    _, known = with_ids()
    known.read("0.jsonl")
    known.read("1.jsonl")
    known.restore([])
    for name in ("1.jsonl", "0.jsonl"):
        known.read(name)
        _, resumed = with_ids()
        resumed.restore(json.loads(json.dumps(known.state())))
        assert resumed.state() == known.state()
        assert resumed.metrics() == known.metrics()
        assert resumed.read(name) == known.read(name)
    assert set(resumed.prompts) == set(known.prompts) == {"0a", "0b", "1b"}


def test_a_file_that_is_back_has_all_its_rows_again():
    """While it is gone, no row of another file takes the id of one of its rows."""
    _, known = with_ids()
    known.read("0.jsonl")
    known.read("1.jsonl")
    folder, without = with_ids()
    del folder.files["0.jsonl"]
    without.restore(known.state())
    assert list(without.prompts) == ["1b"]
    _, back = with_ids()
    back.restore(without.state())
    assert list(back.prompts) == ["0a", "0b", "1b"]
    assert back.state() == known.state()


# --- rounds and runs


class Watching:
    """Reads file k before round k and draws among all it knows, by seed and round."""

    def __init__(self, setup):
        self.setup, self.files = setup, []

    def batch(self, round, left_out):
        self.files.append(f"{round}.jsonl")
        added = [prompt for name in self.files for prompt in self.setup.read_rows(name)]
        return random.Random(f"{self.setup.seed}:{round}").sample([*self.setup.sets[0], *added], 3)

    def probes(self, step):
        return ()

    def observe(self, rollouts, step):
        return {}

    def state(self):
        return {"files": self.files}

    def restore(self, state):
        self.files = list(state["files"])


def rounds_of(folder, size=2):
    known = known_in(folder)
    setup = SamplerSetup((tuple(GIVEN),), None, True, size, 4, 3, known.read)
    return SampledRounds("own:Watching", Watching(setup), setup, known), known


def run_of(schedule="synchronous", start=START, last=6, folder=None):
    stream, known = rounds_of(folder or Folder())
    made = parts(make_table(ALL, random.Random(1)), selection="nonzero_advantage", max_rounds=3)
    config, tracker, checkpoints = settings(last), RecordingTracker(), CheckpointsInMemory()
    step = train_step if schedule == "synchronous" else ahead_of(config, stream, max_staleness=2)
    if not isinstance(start, list):
        fit(made, stream, tracker, config, None, checkpoints, start, 0, step)
    else:
        stored = stored_state(start)
        stream.read_added(stored.hooks)
        fit(made, stream, tracker, config, None, checkpoints, with_prompts(stored, known.prompts), 0, step)
    return made, without_times(tracker), checkpoints.states


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("stopped_after", [1, 3, 5])
def test_a_resumed_run_samples_the_added_rows_that_nobody_disturbed(schedule, stopped_after):
    made, rows, states = run_of(schedule)
    trained = {prompt.prompt_id for batch in made.trainer.batches for prompt in batch.prompts}
    assert trained & {prompt.prompt_id for prompt in ALL[4:]}, "else the test shows nothing"
    again, resumed, _ = run_of(schedule, list(state_lines(states[stopped_after])))
    assert resumed == rows[stopped_after:]
    assert [b.prompts for b in again.trainer.batches] == [b.prompts for b in made.trainer.batches][stopped_after:]
    counts = [row["sampler/rows_added"] for _, row in rows]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_carried_prompts_whose_file_is_gone_end_the_resume():
    """Of a run that has sampled ahead: some of its prompts are in the file, so it cannot go on as it was."""
    _, _, states = run_of("asynchronous")
    with_added = [
        state
        for state in states.values()
        if state.sampling.ahead
        and any(item.prompt.prompt_id.startswith("new") for item in state.sampling.ahead.rollouts)
    ]
    lines = list(state_lines(with_added[0]))
    with pytest.raises(CheckpointError, match=r"sampled prompts are not in the training set \(first: new"):
        run_of("asynchronous", lines, folder=Folder({}))


def test_prompts_of_a_file_that_is_gone_leave_a_round_that_was_decided():
    rounds, _ = rounds_of(Folder())
    decided = rounds.batch(0)
    state = json.loads(json.dumps(rounds.state(0)))
    resumed, _ = rounds_of(Folder({}))
    resumed.restore(state)
    assert resumed.batch(0) == tuple(prompt for prompt in decided if prompt in GIVEN)
    assert len(resumed.batch(0)) < len(decided)


def test_an_epoch_stays_that_of_the_training_files():
    rounds, known = rounds_of(Folder())
    assert (len(rounds), rounds.num_prompts) == (4, 4)
    rounds.batch(0)
    assert (len(rounds), rounds.num_prompts) == (4, 6)
    rounds.restore({})
    assert (rounds.state(0)["state"], rounds.state(0)["rows"], known.metrics()) == ({"files": []}, [], {})


def test_files_that_are_read_when_the_sampler_is_made_belong_to_the_beginning():
    class Early(Watching):
        def __init__(self, setup):
            super().__init__(setup)
            self.added = setup.read_rows("3.jsonl")

    known = known_in(Folder())
    setup = SamplerSetup((tuple(GIVEN),), None, True, 2, 4, 3, known.read)
    rounds = SampledRounds("own:Early", Early(setup), setup, known)
    rounds.restore({})
    assert rounds.state(0)["rows"] == [["3.jsonl", "contents of 3.jsonl", []]]


def test_a_round_may_have_every_prompt_of_a_set_that_has_grown():
    """`present` reaches the size of the training files while prompts are left: the step goes on."""
    stream, _ = rounds_of(Folder(), size=6)
    made = parts(make_table(ALL, random.Random(1)), max_rounds=4)
    result = train_step(made, stream, START.sampling, 1)
    assert result.metrics["mars/rounds"] >= 2
    assert result.metrics["mars/prompts_kept"] == 6


def test_a_setup_without_a_run_reads_nothing():
    with pytest.raises(ConfigError, match=r"^recipe\.sampler: no rows can be read here; got x\.jsonl"):
        replace(SamplerSetup((), None, True, 2, 4, 3)).read_rows("x.jsonl")
