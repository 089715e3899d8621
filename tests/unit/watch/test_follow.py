"""`mars watch` follows a run that goes on, says how it ended, and leaves at Ctrl-C."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.text import Text

from mars.run_dir.lock import RunLock
from mars.watch.follow import ending, follow, show_once
from mars.watch.seen import RunReader
from tests.unit.watch.run_folder import RunFolder, answer

TO_SCREEN, FROM_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, _environ={"TERM": "xterm"})


class Waits:
    """What happens while `follow` waits: one of the functions each time."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self._left = list(happenings)

    def __call__(self, seconds: float) -> None:
        assert seconds > 0
        self._left.pop(0)()


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_growing_run_is_followed_to_its_end(run):
    console, lock = terminal(height=12), RunLock(run.path)
    lock.take()
    run.answer(1, answer("an answer"))
    pictures = []

    def step(number: int) -> None:
        pictures.append(console.file.getvalue())
        run.add(number, critic__score__mean=number / 8, timing_s__step=60.0)

    def end() -> None:
        step(4)
        run.events.log("finished", 4)
        lock.release()

    seen = follow(RunReader(run.path), console, Waits(lambda: step(1), lambda: step(2), lambda: step(3), end))
    assert (seen.state, [row["critic/score/mean"] for row in seen.rows]) == ("finished", [0.125, 0.25, 0.375, 0.5])
    assert "step 0 of 4" in pictures[0]
    assert "step 1 of 4" in pictures[1]
    assert "about 3m00s left" in pictures[1]
    assert "0.125 to 0.25" in pictures[2]
    whole = console.file.getvalue()
    assert whole.count(TO_SCREEN) == whole.count(FROM_SCREEN) == 1
    assert "an answer" in whole.partition(FROM_SCREEN)[0]  # twelve lines have room for it
    after = whole.partition(FROM_SCREEN)[2]  # stays in the terminal
    assert "step 4 of 4" in after
    assert ending(seen).plain == "finished after step 4"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12)])
def test_the_last_picture_and_how_the_run_ended_fit_the_terminal(run, width, height):
    """With the prompt below them, so that the run's name is not scrolled away."""
    console = terminal(width, height)
    run.add(3, critic__score__mean=0.5, mars__gain__mean=0.1, timing_s__step=60.0, timing_s__gen=50.0)
    run.events.log("failed", 3, reason="a worker was lost, for a reason that takes several lines of a small terminal")
    seen = follow(RunReader(run.path), console, Waits())
    console.print(ending(seen), soft_wrap=True)
    *lines, last = Text.from_ansi(console.file.getvalue()).plain.split("\n")
    assert (lines[0].split()[0], last) == ("one", "")
    assert sum(-(-max(len(line), 1) // width) for line in lines) < height
    file = Console(file=io.StringIO(), width=width, height=height)
    show_once(RunReader(run.path), file)
    assert "gen " in file.file.getvalue()  # the whole picture


def test_ctrl_c_gives_the_terminal_back(run):
    console = terminal()

    def press() -> None:
        raise KeyboardInterrupt

    with RunLock(run.path) as lock:
        lock.take()
        with pytest.raises(KeyboardInterrupt):
            follow(RunReader(run.path), console, Waits(press))
    assert console.file.getvalue().count(FROM_SCREEN) == 1


@pytest.mark.parametrize(
    ("event", "details", "text"),
    [
        ("failed", {"reason": "\x1b[2Jdisk", "exit_code": 4},
         "failed after step 1 (exit code 4): \\x1b[2Jdisk\nto go on: "),
        ("stalled", {"reason": "no progress"}, "failed after step 1: no progress\nto go on: "),
        ("interrupted", {"reason": "by SIGTERM; to go on: mars resume x", "exit_code": 75},
         "interrupted after step 1 (exit code 75): by SIGTERM; to go on: mars resume x"),
        (None, {}, "interrupted after step 1: the process was killed, or its machine went down\nto go on: "),
    ],
)  # fmt: skip
def test_the_end_of_a_run_is_told_with_its_reason(run, event, details, text):
    run.add(1)
    if event is not None:
        run.events.log(event, 1, **details)
    told = ending(RunReader(run.path).look()).plain
    assert told.startswith(text)
    assert told.endswith(f"mars resume {run.path}") or told == text


# --- the command


def test_without_a_terminal_there_is_one_plain_picture(mars, run):
    run.add(1, critic__score__mean=0.5)
    run.events.log("failed", 1, reason="a reason", exit_code=3)
    for options in ((), ("--once",)):
        done = mars("watch", str(run.path), *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        lines = done.stdout.splitlines()
        assert lines[0].startswith("one · failed · step 1 of 4")
        assert lines[-2:] == ["failed after step 1 (exit code 3): a reason", f"to go on: mars resume {run.path}"]


def test_one_picture_of_a_run_that_goes_on(mars, run):
    with RunLock(run.path) as lock:
        lock.take()
        done = mars("watch", str(run.path), "--once")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].rstrip() == "one · running · step 0 of 4"


@pytest.mark.parametrize("name", ["none", "file", ""])
def test_what_is_no_run_is_refused_in_one_line(mars, tmp_path, name):
    (tmp_path / "file").touch()
    done = mars("watch", str(tmp_path / name))
    assert done.returncode == 2
    assert done.stderr == f"RUN: no run is in {tmp_path / name}; give the run.dir of a run\n"


def test_ctrl_c_leaves_quietly(mars, run, monkeypatch):
    def press(reader: object, console: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mars.cli.watch.show_once", press)
    done = mars("watch", str(run.path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_in_the_folder_is_changed(mars, run):
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    before = contents()
    mars("watch", str(run.path))
    assert contents() == before
