"""`mars report A B ...`: what the page of several runs shows, where it is written, and how it follows running runs."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mars.cli.compared_runs import compared
from mars.cli.report_runs import follow_runs
from mars.report.comparison_page import write_comparison
from mars.report.run_comparison import ComparedRun, RunComparison
from mars.report.run_curves import draw_run_curves
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.lock import RunLock
from tests.integration.report.test_run_page import HOSTILE, Page
from tests.unit.cli.run_folders import write_run

HEBREW = "ניסוי"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two runs of different length: A has evaluated at steps 0 and 4, B, which was interrupted, at step 0."""
    folder = tmp_path_factory.mktemp("two")
    before, after = {None: "0110", "visible": "0100"}, {None: "1111", "visible": "0101"}
    a = write_run(folder / "a", steps=4, evaluations={0: before, 4: after}, **{"actor/entropy": 0.5})
    settings = {"run.seed": 7, "actor.learning_rate": 1e-5}
    b = write_run(folder / "b", settings, steps=2, evaluations={0: {**before, None: "1110"}}, ends=False)
    events = EventLog(b / EVENTS_FILE)
    for step in (1, 2):
        events.log("worker_lost", step)
    events.log("resumed", 2, last_step=9)
    return a, b


@pytest.fixture
def no_curves(monkeypatch):
    """A figure takes a third of a second."""
    monkeypatch.setattr("mars.report.comparison_page.draw_run_curves", lambda runs: [])


def written(runs, path):
    write_comparison(compared(runs), path)
    return Page(path.read_text(encoding="utf-8"))


def words(path: Path) -> str:
    """The text of a page, with a space in the place of each tag."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", path.read_text(encoding="utf-8"))).split())


def test_the_page_of_two_runs(two, tmp_path):
    page = written(two, tmp_path / "page.html")
    text = words(tmp_path / "page.html")
    for part in (
        f"A a finished 4/4 0.400 – {two[0]}",
        f"B b interrupted 2/9 0.200 – {two[1]}",
        "A with B: step 0, the last that both have (A also has step 4); 4 questions in both.",
        # 0110 and 1110 differ in one of four questions; Student's t of 1, 0, 0, 0: 0.25 +- 3.182 x 0.5 / 2
        "All data sources, step 0 accuracy, % Multi Mono visible",
        "A a 50.0 [15.0, 85.0] 25.0", "B b 75.0 [30.1, 95.4] 25.0", "B − A +25.0 [-54.6, +100.0] +0.0",
        "A a (step 4) 100.0 [51.0, 100.0] n=4", "B b (step 0) 75.0 [30.1, 95.4] n=4",
        "actor.learning_rate – 1e-05", "run.seed 0 7",
        "resumed – 1 (step 2)", "worker_lost – 2 (steps 1, 2)",
        "Versions and code are the same",
    ):  # fmt: skip
        assert part in text, part
    assert "run.dir" not in text
    assert page.of("img", "alt")[0] == "Lines over steps 1 to 4, in mean score. Last values: A a 0.4; B b 0.2."
    assert all(page.of("img", "alt"))
    assert "script" not in page.tags
    cells = page.of("td", "data-label")
    assert {"state", "steps", "A a", "B b", "Multi", "Mono visible"} <= set(cells)


def test_the_same_runs_give_the_same_bytes(two, tmp_path):
    for name in ("one.html", "other.html"):
        write_comparison(compared(two), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()


def test_the_command_prints_the_evaluations_and_says_where_the_page_is(two, tmp_path, monkeypatch, mars, no_curves):
    monkeypatch.chdir(tmp_path)
    done = mars("report", *map(str, two))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "report: comparison.html"
    assert "+25.0 [-54.6, +100.0]" in done.stdout
    assert mars("report", *map(str, reversed(two))).returncode == 0  # its own page is replaced
    assert "-25.0" in (tmp_path / "comparison.html").read_text()
    assert not any((run / name).exists() for run in two for name in ("report.html", "comparison.html"))


def test_no_other_file_is_overwritten(two, tmp_path, mars):
    own = two[0] / "report.html"
    other = tmp_path / "mine.html"
    other.write_text("<p>mine</p>")
    for out, message in (
        (own, f"--out: this is the place of the report of one run; got {own}; give another name"),
        (other, f"--out: there is a file that is no comparison of runs, and would be overwritten; got {other}"),
        (tmp_path / "page.txt", "--out: the name of a page ends with .html"),
    ):
        done = mars("report", *map(str, two), "--out", str(out))
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert (other.read_text(), own.exists()) == ("<p>mine</p>", False)


def test_one_run_has_its_page_where_it_is_told(two, tmp_path, mars):
    assert mars("report", str(two[0]), "--follow", "--out", str(tmp_path / "a.html")).returncode == 0
    assert "a – mars report" in (tmp_path / "a.html").read_text()
    done = mars("report", str(two[0]), "--out", str(two[1] / "report.html"))
    assert (done.returncode, "the place of the report of one run" in done.stderr) == (2, True)
    assert not (two[0] / "report.html").exists()


def test_names_of_all_scripts_and_hostile_ones(tmp_path, no_curves):
    names = ("红外", HEBREW, HOSTILE.replace("\ud800", "").replace("\x00", ""))
    runs = [write_run(tmp_path / str(number), name=name) for number, name in enumerate(names)]
    page = written(runs, tmp_path / "page.html")
    assert {"script", "form"} & set(page.tags) == set()
    assert "onerror" not in [name for _, name, _ in page.attributes]
    assert "\x1b" not in page.text + "".join(page.of("td", "data-label"))
    for mark, name in (("A", "红外"), ("B", HEBREW)):
        assert f"{mark} {name}" in page.of("td", "data-label")


def test_a_name_from_right_to_left_is_a_letter_in_the_figures(monkeypatch):
    drawn = []
    monkeypatch.setattr("mars.report.run_curves.lines_figure", lambda *given, **_: drawn.append(given[1]))
    rows = [{"step": 1, "critic/score/mean": 0.5}]
    draw_run_curves([("A", "x" * 30, rows), ("B", HEBREW, rows), ("C", "红外", rows)])
    assert list(drawn[0]) == [f"A {'x' * 24} … (6 more characters)", "B", "C 红外"]


def colours(svg: bytes) -> list[str]:
    return re.findall(r"stroke: (#(?!000000|dddddd)[0-9a-f]{6})", svg.decode())


def test_a_run_has_one_colour_in_every_figure_and_nan_is_left_out():
    def rows(**metrics):
        return [{"step": step, **metrics} for step in (1, 2)]

    runs = [
        ("A", "a", rows(**{"critic/score/mean": 0.5, "actor/entropy": float("nan")})),
        ("B", "b", rows(**{"critic/score/mean": 0.5, "actor/entropy": 0.5})),
    ]
    score, entropy = draw_run_curves(runs)
    assert set(colours(score.svg)) == {"#0072b2", "#d55e00"}
    assert set(colours(entropy.svg)) == {"#d55e00"}
    assert entropy.description == "Lines over steps 1 to 2, in nats. Last values: B b 0.5."


def run(number: int, rows: int) -> ComparedRun:
    metrics = [
        {"step": step, "critic/score/mean": (step * 37 % 101) / 100, "actor/entropy": 1 + step % 7}
        for step in range(1, rows + 1)
    ]
    return ComparedRun(
        mark=chr(65 + number), name=f"run {number}", folder="f", state="running", step=rows, last_step=None, score=None,
        evaluation=None, metrics=metrics, evaluations=[], events=[], settings={}, versions={}, notes=[],
    )  # fmt: skip


def comparison(runs: int, rows: int, **parts) -> RunComparison:
    found = RunComparison([run(number, rows) for number in range(runs)], {}, {}, {}, [], None)
    return replace(found, **parts)


def test_ten_long_runs_with_long_settings_fit_on_a_page(tmp_path):
    settings = {f"data.{name}": [f"{name}{run}" + "x" * 5000 for run in range(10)] for name in range(150)}
    write_comparison(comparison(10, 3000, settings=settings), tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert (tmp_path / "page.html").stat().st_size < 10_000_000
    assert len(page.of("img", "src")) == 2
    assert page.text.count("x …") == 1500
    assert "Plot left out" not in page.text


def test_a_full_page_says_what_is_missing(tmp_path, monkeypatch, no_curves):
    monkeypatch.setattr("mars.report.page.MAX_PAGE_BYTES", 1_010_000)
    write_comparison(comparison(2, 0, settings={f"k{n}": ["a" * 90, "b"] for n in range(99)}), tmp_path / "page.html")
    assert re.search(r"The first \d+ of 99: a page has at most 10 MB", (tmp_path / "page.html").read_text())


def test_more_runs_than_can_be_told_apart_are_refused(mars, tmp_path):
    runs = [write_run(tmp_path / str(number), steps=1) for number in range(13)]
    done = mars("report", *map(str, runs), "--out", str(tmp_path / "page.html"))
    message = "RUN: the curves of more than 12 runs cannot be told apart; got 13; give fewer"
    assert (done.returncode, message in done.stderr) == (2, True)


def test_runs_are_followed_until_the_last_one_has_ended(two, tmp_path, capsys, no_curves):
    running = write_run(tmp_path / "running", steps=1, ends=False)
    out, looks = tmp_path / "page.html", []
    with RunLock(running) as lock:
        lock.take()

        def wait(seconds):
            looks.append((seconds, 'data-reload="5"' in out.read_text(), "B running running 1/1" in words(out)))
            if len(looks) == 1:
                with (running / "metrics.jsonl").open("a") as rows:
                    rows.write(json.dumps({"step": 2, "critic/score/mean": 0.9}) + "\n")
            else:
                EventLog(running / EVENTS_FILE).log("finished", 2)
                lock.release()

        follow_runs([two[0], running], out, 5, wait)
    assert looks == [(5, True, True), (5, True, False)]
    assert "B running finished 2/1 0.900" in words(out)
    assert "data-reload" not in out.read_text()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("report:")] == [f"report: {out}"] * 3


def test_ctrl_c_leaves_the_page_as_it_is(two, tmp_path, no_curves):
    running = write_run(tmp_path / "running", steps=1, ends=False)

    def interrupted(_):
        raise KeyboardInterrupt

    with RunLock(running) as lock:
        lock.take()
        follow_runs([two[0], running], tmp_path / "page.html", 5, interrupted)
    assert 'data-reload="5"' in (tmp_path / "page.html").read_text()
