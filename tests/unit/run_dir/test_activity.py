"""What a run does: noted by the watchdog, written to activity.json, read again."""

from __future__ import annotations

import doctest
import logging
import queue

import pytest

from mars import watchdog
from mars.run_dir import activity as activity_module
from mars.run_dir.activity import ACTIVITY_FILE, ActivityFile, NotedActivity, read_activity
from mars.tracking.timer import StepTimer
from mars.watchdog import Activity, Watchdog, watched


def test_stages_that_overlap_are_all_named():
    now = [0.0]
    watching = Watchdog(10.0, lambda: now[0])
    update, gen = watching.stage("update_actor"), watching.stage("gen")
    update.__enter__()
    now[0] = 2.0
    gen.__enter__()
    now[0] = 5.0
    assert watching.activity() == Activity((("update_actor", 5.0), ("gen", 3.0)), 3.0, {})
    update.__exit__(None, None, None)  # the one that began first may be over first
    assert watching.activity() == Activity((("gen", 3.0),), 0.0, {})
    gen.__exit__(None, None, None)
    assert watching.activity() == Activity((), 0.0, {})


def test_a_stage_of_a_step_is_noted_until_it_is_over(monkeypatch):
    watching = Watchdog(10.0, lambda: 0.0)
    monkeypatch.setattr(watchdog, "_watching", watching)
    timer, seen = StepTimer(clock=lambda: 0.0), []
    for item in timer.during("gen", [1, 2]):
        seen.append((item, [name for name, _ in watching.activity().stages]))
    with pytest.raises(ValueError, match="x"), timer.stage("reward"):
        raise ValueError("x")
    assert seen == [(1, ["gen"]), (2, ["gen"])]
    assert watching.activity().stages == ()


def test_outside_of_a_run_nothing_is_noted():
    with watchdog.stage("gen"):
        watchdog.beat("engine-0")


def test_a_run_is_noted_at_its_begin_and_at_its_end(tmp_path):
    noted: queue.Queue[Activity] = queue.Queue()
    with watched(1000.0, tmp_path, note=noted.put):
        assert noted.get(timeout=60).answered_s == {}
        watchdog.beat("engine-0")
    assert list(noted.get(timeout=60).answered_s) == ["engine-0"]


def test_what_is_written_is_read(tmp_path):
    assert read_activity(tmp_path) is None
    activity = Activity((("gen", 12.5),), 0.3, {"engine-0": 0.3})
    ActivityFile(tmp_path, lambda: 1769860800.04).write(activity)
    assert read_activity(tmp_path) == NotedActivity(1769860800.0, activity)
    assert [path.name for path in tmp_path.iterdir()] == [ACTIVITY_FILE]  # no draft is left
    assert (tmp_path / ACTIVITY_FILE).read_text().strip() in str(activity_module.__doc__)


REST = '"progress_s": 1, "answered_s": {}}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"time": 1}',
        '{"time": "x", "stages": [], ' + REST,
        '{"time": 1, "stages": [1], ' + REST,
        "[" * 10**5,
    ],
)
def test_a_damaged_file_says_nothing(tmp_path, content):
    (tmp_path / ACTIVITY_FILE).write_text(content)
    assert read_activity(tmp_path) is None


def test_a_failure_to_write_is_logged_once_and_ends_nothing(tmp_path, caplog):
    folder = tmp_path / "attempt"
    folder.touch()  # a file in the place of the folder
    file = ActivityFile(folder)
    with caplog.at_level(logging.WARNING, logger="mars"):
        for _ in range(3):
            file.write(Activity((), 0.0, {}))
    assert len(caplog.records) == 1
    folder.unlink()
    file.write(Activity((), 0.0, {}))
    assert read_activity(folder) is not None


def test_docstring_examples():
    assert doctest.testmod(watchdog).failed == 0
