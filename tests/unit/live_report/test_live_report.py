"""A run's report is written while the run runs, by a process beside it, and tells how the run has ended."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from types import SimpleNamespace

import pytest

from mars import interrupts
from mars.config.run_sections import TrackerConfig
from mars.live_report import program
from mars.live_report.kept import ReportProcess, report_kept
from mars.live_report.program import RunOver, pauses, write_pages
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.lock import RunLock

TRACKING = TrackerConfig(to=["report"], project="mars", timeout_s=60.0)


def log_step(run_dir, step):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}}}\n')


def page(run_dir):
    """What the page says of itself, after the time; None without a page."""
    path = run_dir / "report.html"
    if not path.exists():
        return None
    found = re.search(r'<p class="soft" id="written".*?>(.*?)</p>', path.read_text(), re.DOTALL)
    assert found
    return " ".join(re.sub("<.*?>", "", found[1]).split()).partition(" UTC ")[2]


@pytest.fixture
def lock(tmp_path):
    with RunLock(tmp_path) as lock:
        lock.take()
        yield lock


@pytest.fixture
def events(tmp_path):
    events = EventLog(tmp_path / EVENTS_FILE)
    events.log("started", 0, last_step=9)
    return events


def test_a_page_follows_the_run_and_the_last_one_tells_its_end(tmp_path, lock, events):
    seen = []

    def pause(seconds):
        assert seconds == program.EVERY_S
        seen.append(page(tmp_path))
        log_step(tmp_path, len(seen))
        if len(seen) == 3:
            events.log("finished", 3)
            lock.release()
            raise RunOver

    write_pages(tmp_path, pause)
    again = "It is written anew as the run goes on, and loads itself again every 60 s."
    steps = [f"after step {step} of 9. State of the run: running. {again}" for step in (1, 2)]
    assert seen == [None, *steps]
    assert page(tmp_path) == "after step 3 of 9. State of the run: finished."


def test_a_page_that_could_not_be_written_is_tried_again(tmp_path, lock, events):
    log_step(tmp_path, 1)
    path, pauses_made = tmp_path / "report.html", []

    def pause(seconds):
        pauses_made.append(seconds)
        if len(pauses_made) == 1:
            path.mkdir()  # in the place of the page
        elif len(pauses_made) == 2:
            path.rmdir()
        else:
            assert (page(tmp_path) or "").startswith("after step 1 of 9. State of the run: running.")
            raise RunOver

    write_pages(tmp_path, pause)
    assert pauses_made == [program.EVERY_S] * 3


def test_a_killed_run_has_a_last_page_too(tmp_path, events):
    log_step(tmp_path, 1)

    def pause(seconds):
        raise RunOver

    write_pages(tmp_path, pause)
    assert page(tmp_path) == "after step 1 of 9. State of the run: interrupted."


def test_a_run_that_was_resumed_since_is_left_to_its_new_process(tmp_path, lock, events):
    log_step(tmp_path, 1)

    def pause(seconds):
        raise RunOver

    write_pages(tmp_path, pause)
    assert page(tmp_path) is None


def test_a_pause_is_long_if_the_work_was_long_and_ends_with_the_run():
    read, write = os.pipe()
    times = iter([10.0, 10.0, 10.0, 10.002, 10.002, 10.002])
    waited = []

    def select(reading, writing, failing, seconds):
        waited.append(seconds)
        return real(reading, writing, failing, 0)

    real = program.select.select
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program.select, "select", select)
        pause = pauses(read, lambda: next(times))
        pause(0.01)
        pause(0.01)
        os.close(write)
        with pytest.raises(RunOver):
            pause(0.01)
    os.close(read)
    assert waited == pytest.approx([0.01, 0.04, 0.01])


def test_a_run_without_the_report_starts_no_process(tmp_path, lock, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    with report_kept(tmp_path, TRACKING.model_copy(update={"to": ["console"]}), lock):
        pass
    assert page(tmp_path) is None


def test_the_process_writes_the_page_of_a_failed_run(tmp_path, lock, events, caplog, monkeypatch):
    """With the real process, from a folder with a file that is named like a module of Python."""
    (tmp_path / "select.py").write_text("raise RuntimeError")
    (tmp_path / "mars").mkdir()
    (tmp_path / "mars" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    log_step(tmp_path, 1)
    events.log("failed", 1, reason="x")
    with pytest.raises(ZeroDivisionError), report_kept(tmp_path, TRACKING, lock):
        raise ZeroDivisionError
    assert page(tmp_path) == "after step 1 of 9. State of the run: failed."
    assert caplog.text == ""


@pytest.mark.parametrize(("ray_hangs", "waits_s"), [(False, 60.0), (True, 0.0)])
def test_the_last_page_is_not_waited_for_while_ray_may_end_the_process(tmp_path, lock, monkeypatch, ray_hangs, waits_s):
    waited = []
    monkeypatch.setattr(ReportProcess, "start", lambda run_dir: SimpleNamespace(close=waited.append))
    with interrupts.handled(print), report_kept(tmp_path, TRACKING, lock):
        if ray_hangs:
            interrupts.skip_exit_hooks()  # as the connection to Ray does
    assert waited == [waits_s]


def test_a_page_that_cannot_be_written_is_said_and_ends_nothing(tmp_path, lock, events, caplog):
    log_step(tmp_path, 1)
    (tmp_path / "report.html").mkdir()
    with report_kept(tmp_path, TRACKING, lock):
        events.log("finished", 1)
    assert "report.html is not up to date: " in caplog.text
    assert f"{tmp_path}/report.html" in caplog.text


@pytest.mark.parametrize(("where", "what", "value"), [(sys, "executable", "/no/python"), (tempfile, "tempdir", "/no")])
def test_a_process_that_cannot_start_is_said_and_ends_nothing(tmp_path, lock, monkeypatch, caplog, where, what, value):
    monkeypatch.setattr(where, what, value)
    with report_kept(tmp_path, TRACKING, lock):
        pass
    assert "report.html is not kept up to date: " in caplog.text
