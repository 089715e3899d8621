"""`mars report`: what it says of the run's state, and how it follows a running run."""

from __future__ import annotations

import re

import pytest

from mars.cli.report import follow_run, report_run
from mars.errors import DataError
from mars.live_report.follow import standing
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.lock import RunLock


def log_step(run_dir, step):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "response_length/mean": 5.0}}\n')


def written(run_dir):
    """(what the page says of itself, after how many seconds it loads itself again)."""
    html = (run_dir / "report.html").read_text()
    found = re.search(r'<p class="soft" id="written"( data-reload="(\d+)")?>(.*?)</p>', html, re.DOTALL)
    text = " ".join(re.sub("<.*?>", "", found[3]).split())
    assert re.match(r"Written \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC after step ", text)
    return text.partition(" UTC ")[2], found[2]


def test_a_running_run_is_followed_to_its_end(tmp_path, capsys):
    events, looks = EventLog(tmp_path / EVENTS_FILE), []
    with RunLock(tmp_path) as lock:
        lock.take()
        events.log("started", 0, last_step=2)

        def wait(seconds):
            assert seconds == 7
            looks.append((tmp_path / "report.html").exists() and written(tmp_path))
            if len(looks) <= 2:
                log_step(tmp_path, len(looks))
            elif len(looks) == 4:
                events.log("finished", 2)
                lock.release()

        follow_run(tmp_path, 7, wait=wait)
    again = "It is written anew as the run goes on, and loads itself again every 7 s."
    step_1, step_2 = (f"after step {step} of 2. State of the run: running. {again}" for step in (1, 2))
    assert looks == [False, (step_1, "7"), (step_2, "7"), (step_2, "7")]
    assert written(tmp_path) == ("after step 2 of 2. State of the run: finished.", None)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{tmp_path}: the run has logged nothing yet", *[f"report: {tmp_path}/report.html"] * 3]


def test_a_page_that_is_written_once_says_so(tmp_path):
    EventLog(tmp_path / EVENTS_FILE).log("started", 0, last_step=9)
    log_step(tmp_path, 1)
    with RunLock(tmp_path) as lock:
        lock.take()
        report_run(tmp_path)
    text, reload_s = written(tmp_path)
    assert text.startswith("after step 1 of 9. State of the run: running. mars report RUN --follow keeps")
    assert reload_s is None
    report_run(tmp_path)
    assert written(tmp_path)[0] == "after step 1 of 9. State of the run: interrupted."


def test_a_folder_of_evaluations_has_no_state(tmp_path):
    log_step(tmp_path, 1)
    assert standing(tmp_path) is None
    report_run(tmp_path)
    assert written(tmp_path) == ("after step 1.", None)


def test_what_is_left_out_is_said_in_the_terminal_too(tmp_path, capsys):
    log_step(tmp_path, 1)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "after.json").write_text('{"step": 3, broken')
    (tmp_path / EVENTS_FILE).write_text("{\n[]\n")
    report_run(tmp_path)
    evaluation, events, page = capsys.readouterr().out.splitlines()
    assert evaluation.startswith("note: evaluation/after.json: left out, no evaluation result (JSONDecodeError: ")
    assert events == "note: events.jsonl: damaged lines that are left out: 2; the run's state may be wrong"
    assert page.startswith("report: ")
    assert "events.jsonl: damaged lines that are left out: 2" in (tmp_path / "report.html").read_text()


def test_nothing_to_follow(tmp_path):
    with pytest.raises(DataError, match="nothing to report"):
        follow_run(tmp_path, 1, wait=pytest.fail)
