"""What stays of a run that a thread ends (lost cluster, stall, second signal): its event, and lines of its log."""

from __future__ import annotations

import os
import threading

import pytest

from mars import interrupts, last_words
from mars.errors import InterruptedRun, StalledError, WorkerError
from mars.process import LOG_FILE, report_end
from mars.run_dir.events import EVENTS_FILE, EventLog, read_events
from mars.run_dir.outcome import failures_logged, state_of
from tests.run_log import logging_to


class Ended(BaseException):
    """In place of os._exit."""


@pytest.fixture(autouse=True)
def _the_process_stays(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)


@pytest.fixture
def run_log(tmp_path):
    with logging_to(tmp_path) as handler:
        yield handler


@pytest.mark.parametrize(
    ("error", "event", "state"),
    [
        (WorkerError("raylet has ended\nand more"), "failed", "failed"),
        (StalledError("no progress"), "stalled", "failed"),
        (InterruptedRun("interrupted by SIGTERM"), "interrupted", "interrupted"),
    ],
)
def test_the_end_is_one_event_of_the_run(tmp_path, error, event, state):
    """One, although here, where the process stays, the main thread gets to log it too."""
    log, said = EventLog(tmp_path / EVENTS_FILE), []
    log.log("started", 0)
    with interrupts.handled(said.append), pytest.raises(Ended), failures_logged(log, tmp_path):
        interrupts.end_now(error)
    _, end = read_events(tmp_path)
    assert (end["event"], state_of([end], None), said) == (event, state, [error])
    reason = str(error).splitlines()[0]
    assert end["details"] == {"error": type(error).__name__, "reason": reason, "exit_code": error.exit_code}


def test_the_event_is_there_before_the_process_ends(tmp_path, monkeypatch):
    log, seen = EventLog(tmp_path / EVENTS_FILE), []
    monkeypatch.setattr(os, "_exit", lambda code: seen.append((code, [e["event"] for e in read_events(tmp_path)])))
    with interrupts.handled(lambda error: None), failures_logged(log, tmp_path):
        interrupts.end_now(WorkerError("raylet has ended"))
    assert seen == [(5, ["failed"])]


def test_an_end_after_the_run_is_no_event_of_it(tmp_path):
    log = EventLog(tmp_path / EVENTS_FILE)
    with interrupts.handled(lambda error: None):
        with failures_logged(log, tmp_path):
            log.log("finished", 3)
        with pytest.raises(Ended):
            interrupts.end_now(WorkerError("Ray does not stop"))
    assert [entry["event"] for entry in read_events(tmp_path)] == ["finished"]


def test_a_disk_that_hangs_delays_neither_the_report_nor_for_long_the_end(monkeypatch):
    monkeypatch.setattr(last_words, "LIMIT_S", 0.02)
    said, disk = [], threading.Event()
    with last_words.recorded(lambda error, code: disk.wait(60)):
        last_words.say(WorkerError("x"), 5, said.append)
    assert [str(error) for error in said] == ["x"]
    disk.set()


def test_without_a_traceback_none_is_promised_and_the_log_has_the_message(run_log, tmp_path, capsys):
    with interrupts.handled(report_end), pytest.raises(Ended):
        interrupts.end_now(WorkerError("cluster: raylet has ended"))
    assert capsys.readouterr().err == "cluster: raylet has ended\n"
    (line,) = (tmp_path / LOG_FILE).read_text().splitlines()
    assert line.endswith("the process ends: cluster: raylet has ended")


@pytest.mark.parametrize("is_failing", [False, True])
def test_a_traceback_is_named_where_it_can_be_read(run_log, tmp_path, capsys, is_failing):
    """After a record was dropped, as on a full disk, the log may lack it."""
    run_log.failing = is_failing
    try:
        raise WorkerError("engine-0 died")
    except WorkerError as error:
        report_end(error)
    pointer = "" if is_failing else f"(the traceback is in {tmp_path / LOG_FILE})\n"
    assert capsys.readouterr().err == f"engine-0 died\n{pointer}"
    written = (tmp_path / LOG_FILE).read_text()
    assert "the process ends: engine-0 died\nTraceback (most recent call last):\n" in written
