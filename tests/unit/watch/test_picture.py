"""What `mars watch` shows of run directories that were written by hand."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from mars.run_dir.activity import ACTIVITY_FILE, ActivityFile
from mars.run_dir.events import EVENTS_FILE
from mars.run_dir.lock import RunLock
from mars.run_dir.processes import ProcessId, this_process
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from mars.watch.answers import answer_table
from mars.watch.picture import Picture
from mars.watch.seen import RunReader
from mars.watchdog import Activity
from tests.examples import examples
from tests.unit.watch.run_folder import RunFolder, answer

TIMES = {"timing_s__gen": 6.0, "timing_s__update_actor": 3.0, "timing_s__driver": 1.0, "timing_s__step": 10.0}


def console(width: int, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    return Console(file=file, width=width, record=True, force_terminal=False)


NOW = 1000.0


def shown(run: Path, width: int = 80, encoding: str = "utf-8") -> list[str]:
    """The lines of the picture at NOW, each of which must fit."""
    recording = console(width, encoding)
    recording.print(Picture(RunReader(run, lambda: NOW).look()))
    lines = recording.export_text().splitlines()
    assert max(map(cell_len, lines)) <= width, "\n".join(lines)
    return [line.rstrip() for line in lines]


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2, 3):
        anchors = {"mars__anchor__visible__mean": 0.25, "mars__anchor__infrared__mean": 0.5 / step}
        folder.add(step, critic__score__mean=step / 10, mars__gain__mean=step / 10 - 0.2, **anchors, **TIMES)
    folder.answer(2, answer("an old answer"))
    folder.answer(
        3,
        *(answer(f"multi answer {k}", k, sample=k) for k in range(4)),
        answer("of one\nsource", 0.5, ("visible",)),
    )
    return folder


def test_a_running_run_at_80_characters(run):
    note(run, 2.0, Activity((("gen", 10.0), ("reward", 1.0)), 0.5, {"driver": 1.0, "engine-0": 3.0}))
    with RunLock(run.path) as lock:
        lock.take()
        lines = shown(run.path)
    me = this_process()
    assert lines == [
        "one · running · step 3 of 4 · about 10s left",
        "█" * 56 + "▁" * 19 + "  75%",
        "gen for 12s, reward for 3s; last progress 2s ago",
        "",
        "reward                0.3   █ 0.1 to 0.3",
        "                           ▅█",
        "                          ▁██",
        "infrared            0.167 █▃▁ 0.167 to 0.5",
        "visible              0.25 ▄▄▄ 0.25 to 0.25",
        "gain                  0.1   █ -0.1 to 0.1",
        "                           ▅█",
        "                          ▁██",
        "",
        "step 3 took 10s",
        "gen           6.00s  60% " + "█" * 32,
        "update_actor  3.00s  30% " + "█" * 16,
        "driver        1.00s  10% " + "█" * 5,
        "",
        "workers",
        f"driver {me.host}:{me.pid} alive, answered 3s ago",
        "",
        "answers of step 3",
        "truth       a truth",
        "multi   0   multi answer 0",
        "multi   1   multi answer 1",
        "visible 0.5 of one source",
    ]


def note(run: RunFolder, seconds_ago: float, activity: Activity) -> None:
    ActivityFile(run.attempt, lambda: NOW - seconds_ago).write(activity)


@pytest.mark.parametrize(
    ("seconds_ago", "line"),
    [(0.0, "last progress 7s ago"), (-3.0, "last progress 7s ago"), (61.0, "the driver has written nothing for 1m01s")],
)
def test_what_the_driver_does(run, seconds_ago, line):
    """-3: the clock of the driver's machine is ahead."""
    with RunLock(run.path) as lock:
        lock.take()
        assert shown(run.path)[2] == "the workers are starting"
        note(run, seconds_ago, Activity((), 7.0, {}))
        assert shown(run.path)[2] == line
        (run.attempt / ACTIVITY_FILE).write_text('{"time": 1}')
        assert shown(run.path)[2] == "the workers are starting"


def test_the_same_run_at_40_characters(run):
    lines = shown(run.path, 40)
    assert lines[:2] == ["one · interrupted · step 3 of 4", "█" * 26 + "▁" * 9 + "  75%"]
    assert "infrared      0.167 █▃▁" in lines  # the range has no room
    assert any(line.startswith("gen           6.00s  60% ████") for line in lines)
    assert "workers" not in lines  # nothing works any more


def test_the_first_line_keeps_the_state_whatever_the_width(tmp_path):
    folder = RunFolder(tmp_path / "run", name="a_run_with_a_rather_long_name_of_60_characters_and_some_more")
    folder.add(3, timing_s__step=10.0)
    with RunLock(folder.path) as lock:
        lock.take()
        wide = "a_run_with_a_rather_long_name_of_60_ch… · running · step 3 of 4 · about 10s left"
        assert shown(folder.path, 80)[0] == wide
        assert shown(folder.path, 40)[0] == "a_run_with_a_ra… · running · step 3 of 4"


def test_many_steps_share_the_columns(tmp_path):
    run = RunFolder(tmp_path / "run", last_step=4000)
    for step in range(1, 1001):
        run.add(step, critic__score__mean=None if step % 7 else step / 1000)
    lines = shown(run.path)
    assert lines[1].endswith("  25%")
    (row,) = [line for line in lines if line.startswith("reward")]
    assert row.split() == ["reward", "–", row.split()[2], "0.0175", "to", "0.984"]  # the last value is null


def test_a_run_that_has_just_begun(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert shown(run.path) == ["one · interrupted · step 0 of 4", "▁" * 75 + "   0%"]


def test_a_cold_start_has_its_losses(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.add(0, eval__loss=2.0)
    run.add(1, sft__loss=1.5, timing_s__step=0.5)
    lines = shown(run.path)
    assert "step 1 took 0.50s" in lines  # no stages: a cold start times whole steps
    assert [line.split()[:2] for line in lines if line.startswith(("loss", "eval"))] == [
        ["loss", "1.5"],
        ["eval", "loss"],
    ]


def test_a_terminal_without_blocks_gets_letters(run):
    lines = shown(run.path, encoding="latin-1")
    assert "infrared            0.167 @-." in [line[:29] for line in lines]
    assert lines[1] == "@" * 56 + "." * 19 + "  75%"


def test_workers_with_trouble_come_first(run):
    gone = ProcessId(this_process().host, 2**22 + 1, 1.0)
    elsewhere = ProcessId("another", 7, 1.0)
    for name, process in (("engine-0", gone), ("engine-1", elsewhere), ("engine-2", elsewhere), ("actor-0", elsewhere)):
        (run.attempt / f"{name}.processes.jsonl").write_text(json.dumps(asdict(process)) + "\n")
    for name in ("engine-1", "engine-2"):
        run.events.log("worker_lost", 3, worker=name, reason="its node is gone")
    run.events.log("worker_replaced", 3, worker="engine-1", reason="started again")
    with RunLock(run.path) as lock:
        lock.take()
        lines = shown(run.path)
    first = lines.index("workers") + 1
    assert [line.split(maxsplit=2)[::2] for line in lines[first : first + 5]] == [
        ["engine-0", "has ended"],
        ["engine-2", "lost: its node is gone"],
        ["driver", "alive"],
        ["actor-0", "on another machine"],
        ["engine-1", "on another machine"],
    ]


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(run):
    reader = RunReader(run.path)
    assert reader.look().notes == []
    path = run.path / ROLLOUTS_FOLDER / "step_000003.jsonl"
    path.write_text(path.read_text() + "no answer\n")
    (run.path / "config.yaml").write_text("run: {name: [")
    (run.path / METRICS_FILE).unlink()
    (run.path / METRICS_FILE).mkdir()
    seen = reader.look()
    assert len(seen.rows) == 3  # those of the look before
    assert seen.name == "run"  # that of the folder
    assert [note.split(":")[0] for note in seen.notes] == ["config.yaml", METRICS_FILE, "step_000003.jsonl"]
    assert "! step_000003.jsonl: 1 lines are left out, they are no answers" in shown(run.path)


def test_damaged_lines_are_counted(run):
    for name in (METRICS_FILE, EVENTS_FILE):
        with (run.path / name).open("a") as file:
            file.write("{\n")
    reader = RunReader(run.path)
    for seen in (reader.look(), reader.look()):
        assert [note.partition(";")[0] for note in seen.notes] == [
            f"{EVENTS_FILE}: damaged lines that are left out: 1",
            f"{METRICS_FILE}: damaged lines that are left out: 1",
        ]


def test_texts_cannot_act_on_the_terminal(tmp_path):
    run = RunFolder(tmp_path / "run", name="[bold]\x1b[2J")
    run.add(1, critic__score__mean=0.5, **{"mars__anchor__\x1b]0;t\x07__mean": 0.5})
    run.answer(1, answer("\x1b[31mred\x9b2J [red]x[/red] \u202eevil"))
    run.events.log("worker_lost", 1, worker="\x1bc", reason="\x1bc")
    text = "\n".join(shown(run.path))
    assert not {character for character in text if not character.isprintable()} - {"\n"}
    assert r"[bold]\x1b[2J · " in text
    assert r"\x1b[31mred\x9b2J [red]x[/red] \u202eevil" in text


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    "text", ["漢字かな交じり文" * 20, "שלום עולם " * 20, "👩🏽\u200d🔬🙂❤️" * 20, "e\u0301" * 90, ""]
)
def test_any_script_keeps_its_line(run, text, width):
    run.answer(4, answer(text, 0.25), answer("plain", 1.0, sample=1))
    lines = shown(run.path, width)
    first = lines.index("answers of step 3") + 2
    assert lines[first].startswith("multi 0.25")
    assert lines[first + 1] == "multi 1    plain"  # what follows is neither moved nor wrapped


@examples(40)
@given(st.text(), st.integers(10, 90))
def test_no_text_makes_the_answers_wider_or_higher_than_asked(text, width):
    recording = console(width)
    recording.print(answer_table([[answer(text), answer(text, view=("a",))]], width, lines=3))
    lines = recording.export_text().splitlines()
    assert len(lines) == 3
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("height", [12, 24, 40, 60])
def test_the_answers_get_the_lines_that_are_left(run, height):
    many = [answer(f"text {k}", prompt=f"p{k}") for k in range(40)]
    run.answer(5, *many)
    recording = console(80)
    lines = recording.render_lines(Picture(RunReader(run.path).look(), height), pad=False)
    assert len(lines) == height
