from __future__ import annotations

import doctest
import io

import pytest
from rich.console import Console

from mars import watchdog
from mars.evaluation.summary import EvalRecord, summarize
from mars.evaluation.tables import evaluation_rows, evaluation_table
from mars.output import text as text_module
from mars.output.text import shorten, visible
from mars.rewards.contract import MEAN_IOU
from mars.tracking import console as console_module
from mars.tracking.console import ConsoleTracker, duration, step_line
from mars.watchdog import Watchdog


def plain(width: int = 200) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=True, _environ={"TERM": "xterm"})


METRICS = {
    "critic/score/mean": 0.5,
    "mars/gain/mean": -0.04,
    "response_length/mean": 123.4,
    "timing_s/gen": 3.06,
    "timing_s/update_actor": 2.0,
    "timing_s/step": 5.5,
    "other": 1.0,
}


def test_a_step_is_one_line() -> None:
    line = step_line(METRICS, 7, 60)
    assert line == " 7/60  score 0.500  gain -0.040  length 123  gen 3.1s  update_actor 2.0s  step 5.5s"
    assert step_line({"critic/score/mean": float("nan"), "eval/multi/mean": 0.25}, 1, 9) == "1/9  score nan  eval 0.250"


def test_failed_responses_are_in_the_line_and_their_number_in_the_last_one() -> None:
    assert "failed" not in step_line({**METRICS, "reward/failed": 0.0}, 7, 60)
    console = plain()
    tracker = ConsoleTracker(3, console)
    for step, failed in enumerate([2.0, 0.0, 3.0], 1):
        tracker.log({"reward/failed": failed}, step)
    tracker.close()
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "1/3  failed 2"
    assert lines[1].startswith("2/3  ETA")
    assert lines[3] == "5 responses got no usable score and were left out of training: see mars.log"


def test_without_a_terminal_there_are_plain_lines_with_the_time_left() -> None:
    now = iter([100.0, 110.0, 130.0])
    console = plain(width=40)  # narrower than the line: still one line
    tracker = ConsoleTracker(5, console, clock=lambda: next(now))
    tracker.log(METRICS, 1)
    tracker.log(METRICS, 2)
    tracker.log(METRICS, 3)
    tracker.close()
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert "ETA" not in lines[0]  # what came before the first line was no step
    assert lines[1].endswith("ETA 30s")  # 3 steps of 10 s
    assert lines[2].endswith("ETA 30s")  # 2 steps of 15 s
    assert "\x1b" not in console.file.getvalue()


def test_the_pace_is_that_of_the_last_steps() -> None:
    seconds = [0.0, 1000.0] + [1000.0 + step for step in range(1, 21)]
    now = iter(seconds)
    console = plain()
    tracker = ConsoleTracker(41, console, clock=lambda: next(now))
    for step in range(22):
        tracker.log({}, step)
    assert console.file.getvalue().splitlines()[-1].endswith("ETA 20s")  # the slow first step is forgotten


def test_on_a_terminal_the_bar_ends_with_the_run() -> None:
    console = terminal()
    tracker = ConsoleTracker(3, console)
    tracker.log(METRICS, 3)
    tracker.close()
    shown = console.file.getvalue()
    assert "score 0.500" in shown
    assert "3/3" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is given back


def test_the_bar_of_a_resumed_run_begins_where_it_goes_on() -> None:
    console = terminal()
    tracker = ConsoleTracker(60, console, done=50)
    tracker.close()
    assert "50/60" in console.file.getvalue()


def test_the_bar_names_the_stage_that_the_run_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    watching = Watchdog(1000.0, lambda: now[0])
    monkeypatch.setattr(watchdog, "_watching", watching)
    console = terminal()
    with watching.stage("update_actor"), watching.stage("gen"):
        now[0] = 72.0
        tracker = ConsoleTracker(3, console)
        tracker.close()
    assert "update_actor 1m12s, gen 1m12s" in console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.9, "1h00m"), (90061, "25h01m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def result(name: str, source: str = "visible", threshold: float | None = None) -> dict:
    records = [
        EvalRecord("a", "d", view, value, False, metric=MEAN_IOU) for view, value in ((None, 1.0), ((source,), 0.0))
    ]
    records += [
        EvalRecord("b", "d", view, value, False, metric=MEAN_IOU) for view, value in ((None, 0.5), ((source,), 1.0))
    ]
    return summarize(records, name=name, step=3, model="m", threshold=threshold)


def test_evaluation_rows_line_up_results_that_differ() -> None:
    rows = dict(evaluation_rows([result("before"), result("after", "infrared", 0.5)]))
    assert rows["Multi"][0].startswith("75.0 [")
    assert rows["Multi"][0].endswith("n=2")
    assert rows["Mono visible"][1] == "–"
    assert rows["Mono infrared"][0] == "–"
    assert rows["Information gain"][0].startswith("+25.0 [")
    assert rows["Share with IoU > 0.5"][0] == "–"
    assert rows["Share with IoU > 0.5"][1].startswith("50.0 [")
    assert rows["Failed rewards"] == ["0", "0"]
    assert list(rows) == [
        "Multi",
        "Mono visible",
        "Mono infrared",
        "Union (best source)",
        "Information gain",
        "Conflict rate",
        "Share with IoU > 0.5",
        "Failed rewards",
    ]


def test_hostile_names_cannot_act_on_the_terminal() -> None:
    console = terminal()
    console.print(evaluation_table([result("[red]x[/red]\x1b[2J", "vis\x1b]0;title\x07[bold]")]))
    shown = console.file.getvalue()
    assert "[red]x[/red]\\x1b[2J" in shown
    assert "\\x1b]0;title\\x07[bold]" in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown


def test_visible_text() -> None:
    assert visible("a\x00b\x7f\x9b\u202e\u200b\u2028\ud800\t") == r"a\x00b\x7f\x9b\u202e\u200b\u2028\ud800\t"
    assert visible("line\n\ttab", keep="\n\t") == "line\n\ttab"
    assert visible("Über 漢字 🙂") == "Über 漢字 🙂"
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 3) == "abc … (4 more characters)"


@pytest.mark.parametrize("module", [console_module, text_module])
def test_docstring_examples(module) -> None:
    assert doctest.testmod(module).failed == 0
