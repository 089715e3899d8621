"""The files of skipped updates: complete, readable in one line, few, and no danger to the run."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mars.actor.trainer import SkippedUpdate
from mars.data.order.stream import PromptStream
from mars.errors import NumericalError
from mars.run_dir.events import EVENTS_FILE, EventLog, read_events
from mars.run_dir.skipped_updates import SKIPPED_FOLDER, SkippedUpdateFiles
from mars.train_types import MicroBatch, TrainBatch, TrainPrompt, TrainResponse, UpdatePlan
from mars.types import ImageRef
from tests.builders import make_prompt, train_config
from tests.fakes.fit import fit_new_run
from tests.fakes.step import IMAGE
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer
from tests.unit.test_fit import random_parts

DOCS = Path(__file__).parents[3] / "docs" / "runs.md"


def response(*tokens, **fields):
    given = {"advantage": 0.5, "weight": 1.0} | fields
    return TrainResponse(tokens, tuple(-float(token) for token in tokens), **given)


def a_batch():
    """Two updates; prompt b is in the second, and its first response has weight 0."""
    images = (ImageRef("a.png", (28, 28)), ImageRef("set.parquet", (28, 28), row=4, slot=1))
    a = TrainPrompt("a", (1, 2), 6, images, (response(5, 6),), 1.0)
    b = TrainPrompt(
        "b", (3,), 1, (), (response(7, weight=0.0), response(8, 9, advantage=-1.0, off_policy=True)), 1.0, True
    )
    ranks = [((MicroBatch(((0, 0),)),),), ((MicroBatch(((1, 0),)),), (MicroBatch(((1, 1), (1, 0)), num_fillers=1),))]
    return TrainBatch((a, b), tuple(UpdatePlan(rank) for rank in ranks))


FIRST = SkippedUpdate(0, math.nan, math.nan, {(0, 0): (-0.5, math.nan)})
SECOND = SkippedUpdate(1, 0.25, math.inf, {(1, 1): (-0.5, -math.inf)})


@pytest.fixture
def files(tmp_path):
    return SkippedUpdateFiles(tmp_path / SKIPPED_FOLDER, EventLog(tmp_path / EVENTS_FILE))


def same(found, wanted):
    """Equality in which NaN is NaN."""
    return json.dumps(found) == json.dumps(wanted)


def test_a_file_has_all_that_the_update_was_given(files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        files.write(a_batch(), (FIRST, SECOND), step=12)
    first, second = (tmp_path / SKIPPED_FOLDER / f"step_000012_update_{i}.json" for i in (0, 1))
    assert same(json.loads(first.read_text()), {
        "step": 12, "update": 0, "num_updates": 2, "loss": math.nan, "grad_norm": math.nan,
        "prompts": [{
            "prompt_id": "a", "view": "multi", "carried": False, "images": ["a.png", "set.parquet:4, image 1"],
            "prompt_token_ids": [1, 2],
            "responses": [{"token_ids": [5, 6], "mask": [1, 1], "advantage": 0.5, "weight": 1.0, "off_policy": False,
                           "bounded": False, "rollout_logprobs": [-5.0, -6.0], "old_logprobs": [-0.5, math.nan]}],
        }],
    })  # fmt: skip
    found = json.loads(second.read_text())
    (b,) = found["prompts"]
    assert (found["loss"], found["grad_norm"], b["carried"], b["images"]) == (0.25, math.inf, True, [])
    assert [(r["mask"], r["weight"], r["old_logprobs"]) for r in b["responses"]] == [
        ([0], 0.0, None), ([1, 1], 1.0, [-0.5, -math.inf]),
    ]  # fmt: skip
    assert f"step 12: update 1 of 2 was skipped on all ranks: loss nan, gradient norm nan; its batch is in {first}" in (
        caplog.text
    )
    events = [entry for entry in read_events(tmp_path) if entry["event"] == "update_skipped"]
    assert [(e["step"], e["details"]) for e in events] == [
        (12, {"update": 0, "loss": "nan", "grad_norm": "nan", "file": str(first)}),
        (12, {"update": 1, "loss": "0.25", "grad_norm": "inf", "file": str(second)}),
    ]


def test_the_line_of_the_documentation_reads_a_file(tmp_path, monkeypatch, capsys):
    (line,) = re.findall(r'^python -c "(import json.*skipped_updates.*)"$', DOCS.read_text(), re.MULTILINE)
    SkippedUpdateFiles(tmp_path / "runs" / "mars" / SKIPPED_FOLDER, EventLog(None)).write(a_batch(), (FIRST,), 12)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(line, names)  # noqa: S102 - our own page
    assert capsys.readouterr().out == "nan\n"
    assert names["batch"]["prompts"][0]["prompt_id"] == "a"


def test_the_newest_eight_are_kept(files, tmp_path):
    """In order of step and update: a million has seven digits, and is later than 999,999."""
    batch = replace(a_batch(), updates=a_batch().updates * 4)
    for step, update in [(999_998, 1), *((999_999, i) for i in range(7)), (1_000_000, 0)]:
        files.write(batch, (replace(FIRST, update=update),), step)
    names = {path.name for path in (tmp_path / SKIPPED_FOLDER).iterdir()}
    assert len(names) == 8
    assert "step_999998_update_1.json" not in names
    assert {"step_1000000_update_0.json", "step_999999_update_0.json"} <= names


@pytest.mark.parametrize("age_s", [60, -60])
def test_the_file_that_was_just_written_stays_where_files_of_later_steps_are(files, tmp_path, age_s):
    """A resumed run is at an earlier step than they are; its clock may be behind theirs."""
    folder = tmp_path / SKIPPED_FOLDER
    for step in range(20, 28):
        files.write(a_batch(), (FIRST,), step)
        path = folder / f"step_{step:06d}_update_0.json"
        os.utime(path, (0, path.stat().st_mtime - age_s - step))  # later steps are older: time decides
    files.write(a_batch(), (FIRST,), 3)
    assert {int(path.name[5:11]) for path in folder.iterdir()} == {3, *range(20, 27)}


@pytest.mark.parametrize(
    "name", ["step_000012_update_0_bad.json", "step_12.json", "step_x_update_y.json", "step_.json"]
)
def test_files_with_other_names_stay_and_do_no_harm(files, tmp_path, name):
    folder = tmp_path / SKIPPED_FOLDER
    folder.mkdir()
    (folder / name).write_text("mine")
    for step in range(1, 10):
        files.write(a_batch(), (FIRST,), step)
    names = {path.name for path in folder.iterdir()}
    assert names == {name, *(f"step_{step:06d}_update_0.json" for step in range(2, 10))}


def test_without_room_there_is_a_warning(files, tmp_path, caplog):
    (tmp_path / SKIPPED_FOLDER).write_text("a file where the folder should be")
    files.write(a_batch(), (FIRST,), 3)
    assert "its batch is lost: " in caplog.text
    assert [entry["event"] for entry in read_events(tmp_path)] == ["update_skipped"]


class FailingTrainer(RecordingTrainer):
    """Skips the update of step 2 and gives up in step 3."""

    def update(self, batch):
        number = len(self.batches) + 1
        skipped = replace(FIRST, old_logprobs={(0, 0): (-1.0,)})
        self.skipped = (skipped,) if number == 2 else ()
        if number == 3:
            raise NumericalError("2 updates in a row", (skipped, replace(skipped, update=1)))
        return super().update(batch)


def test_a_run_reports_what_it_skipped_also_if_that_ends_it():
    reports = []
    made = replace(random_parts(trainer=FailingTrainer()), report_skipped=lambda *told: reports.append(told))
    prompts = [make_prompt(f"p{i}", [IMAGE] * 2) for i in range(5)]
    settings = train_config({"run.num_steps": 9, "evaluation.every": 0, "evaluation.before_training": False})
    with pytest.raises(NumericalError):
        fit_new_run(made, PromptStream(prompts, 3, 0, True), RecordingTracker(), settings)
    assert [(step, [one.update for one in skipped]) for _, skipped, step in reports] == [(1, []), (2, [0]), (3, [0, 1])]
    assert reports[1][0] == made.trainer.batches[1]


def test_a_numerical_error_brings_its_updates_from_another_process():
    error = pickle.loads(pickle.dumps(NumericalError("too many", (SECOND,))))  # noqa: S301 - as Ray does
    assert (str(error), error.skipped, error.exit_code) == ("too many", (SECOND,), 6)
