"""What the message of an interruption tells a user to do, while a job writes its run directory."""

from __future__ import annotations

import pytest

from mars import interrupts
from mars.checkpoint.resume import StartingPoint
from mars.checkpoint.state import START
from mars.config.load import load_config
from mars.job import record_attempt, say_how_to_go_on
from mars.run_dir.events import EventLog


@pytest.fixture
def said():
    """What an interruption would say now."""
    with interrupts.handled(lambda error: None):
        yield interrupts.consequence


def test_an_interruption_names_the_command_that_goes_on_once_there_is_a_run(said, tmp_path):
    run_dir = tmp_path / "a run"
    settings = ["model.path=/m", "data.train_files=[/d/rows.jsonl]", f"run.dir='{run_dir}'"]
    new, resumed = (load_config("train", [*settings, f"run.resume={resume}"], []) for resume in ("false", "true"))
    for config in (new, resumed):  # no folder is there
        say_how_to_go_on(config)
        assert said() == "start the command again"
    run_dir.mkdir()
    record_attempt(new, [], {}, StartingPoint(START, None, None), 5, EventLog(run_dir / "events.jsonl"))
    assert said() == f"to go on: mars resume '{run_dir}'"
    interrupts.say_consequence("")
    say_how_to_go_on(resumed)
    assert said() == f"to go on: mars resume '{run_dir}'"
