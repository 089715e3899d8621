from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from mars.tracking.jsonl import JsonlTracker, read_metrics
from mars.tracking.multi import QUEUE_SIZE, Copy, MultiTracker
from mars.tracking.tracker import closed_at_end
from tests.builders import make_rollouts


class Recorder:
    """A healthy tracker; `fails_at` makes `log` raise at that step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.rows: list[tuple[int, dict]] = []
        self.rollouts: list[tuple[int, list[str]]] = []
        self.closed = False
        self.fails_at = fails_at
        self.failed = threading.Event()

    def log(self, metrics, step) -> None:
        if step == self.fails_at:
            self.failed.set()
            raise ConnectionError("server \x1b[31mgone")
        self.rows.append((step, dict(metrics)))

    def log_rollouts(self, rollouts, step) -> None:
        self.rollouts.append((step, [item.prompt.prompt_id for item in rollouts]))

    def close(self) -> None:
        self.closed = True


class Stuck(Recorder):
    """Hangs in `log`, or at its start, until the test lets go. Its deadlines never pass."""

    start_timeout_s = call_timeout_s = math.inf
    hangs_at_start = False

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()
        self.abandoned = False

    def log(self, metrics, step) -> None:
        self.entered.set()
        self.release.wait()

    def __call__(self) -> Stuck:
        if self.hangs_at_start:
            self.log({}, 0)
        return self

    def abandon(self) -> None:
        self.abandoned = True


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    tracker = Stuck()
    yield tracker
    tracker.release.set()


def make(tmp_path: Path, timeout_s: float = 30.0, every: int = 2, prompts: int = 1, **copies) -> MultiTracker:
    truth = JsonlTracker(tmp_path / "metrics.jsonl", None)
    return MultiTracker(truth, copies, every, prompts, timeout_s)


def wait_for_failure(tracker: MultiTracker) -> None:
    for copy in tracker._copies:
        copy._thread.join(30)


def test_copies_get_what_the_truth_gets(tmp_path: Path) -> None:
    copy = Recorder()
    tracker = make(tmp_path, copy=lambda: copy)
    for step in (1, 2):
        tracker.log({"a": float(step)}, step)
    tracker.close()
    rows = read_metrics(tmp_path / "metrics.jsonl").rows
    assert [{**row, "step": step} for step, row in copy.rows] == list(rows)
    assert rows[1] == {"step": 2, "a": 2, "fault/tracker": 0, "fault/nonfinite_metrics": 0}
    assert copy.closed


class Telling(Recorder):
    def close_failed(self) -> None:
        self.closed = "failed"


@pytest.mark.parametrize(("error", "ends"), [(None, [True, True]), (OSError, ["failed", True])])
def test_copies_that_can_tell_a_failure_are_told_of_it(tmp_path: Path, error, ends) -> None:
    telling, other = Telling(), Recorder()
    with nullcontext() if error is None else pytest.raises(error):  # noqa: SIM117
        with closed_at_end(make(tmp_path, telling=lambda: telling, other=lambda: other)):
            if error is not None:
                raise error
    assert [telling.closed, other.closed] == ends


def test_a_failing_copy_is_named_once_counted_and_switched_off(tmp_path: Path, caplog) -> None:
    caplog.set_level("DEBUG", "mars")
    bad, good = Recorder(fails_at=2), Recorder()
    tracker = make(tmp_path, bad=lambda: bad, good=lambda: good)
    tracker.log({"a": 1.0}, 1)
    tracker.log({"a": 2.0}, 2)
    tracker._copies[0]._thread.join(30)
    for step in (3, 4):
        tracker.log({"a": float(step)}, step)
    tracker.close()
    assert [row["fault/tracker"] for row in read_metrics(tmp_path / "metrics.jsonl").rows] == [0, 0, 1, 1]
    assert [step for step, _ in bad.rows] == [1]
    assert [step for step, _ in good.rows] == [1, 2, 3, 4]
    assert caplog.text.count("tracker bad is switched off") == 1
    assert r"ConnectionError: server \x1b[31mgone; its last step is 1, metrics.jsonl has all" in caplog.text
    (record,) = [record for record in caplog.records if record.exc_info is not None]
    assert record.levelname == "DEBUG", "the traceback is for mars.log, not for the terminal"
    assert isinstance(record.exc_info[1], ConnectionError)
    assert bad.closed  # a progress bar must give the terminal back


def test_copies_that_an_earlier_tracker_switched_off_stay_counted(tmp_path: Path) -> None:
    first = make(tmp_path, bad=lambda: Recorder(fails_at=1))
    first.log({"a": 1.0}, 1)
    first.close()
    assert first.switched_off == 1
    truth = JsonlTracker(tmp_path / "metrics.jsonl", 1)
    second = MultiTracker(truth, {"bad": lambda: Recorder(fails_at=2)}, 2, 1, 30.0, first.switched_off)
    second.log({"a": 1.0}, 2)
    wait_for_failure(second)
    second.log({"a": 1.0}, 3)
    second.close()
    assert [row["fault/tracker"] for row in read_metrics(tmp_path / "metrics.jsonl").rows] == [0, 1, 2]


@pytest.mark.parametrize("error", [OSError("no home"), SystemExit(1), MemoryError()])
def test_a_copy_that_cannot_be_built_costs_nothing(tmp_path: Path, caplog, error: BaseException) -> None:
    def build() -> Recorder:
        raise error

    tracker = make(tmp_path, copy=build)
    wait_for_failure(tracker)
    tracker.log({"a": 1.0}, 1)
    tracker.close()
    assert read_metrics(tmp_path / "metrics.jsonl").rows[0]["fault/tracker"] == 1
    assert f"{type(error).__name__}: {error}; it has no step since its start, metrics.jsonl has all" in caplog.text


def test_a_stuck_copy_does_not_hold_up_the_steps_or_the_end(tmp_path: Path, caplog, stuck: Stuck) -> None:
    tracker = make(tmp_path, timeout_s=0.05, stuck=stuck)
    tracker.log({"a": 1.0}, 1)
    assert stuck.entered.wait(30)
    start = time.monotonic()
    start = time.monotonic()
    steps = QUEUE_SIZE + 3  # one row is in the tracker's hands, QUEUE_SIZE wait, the next finds the queue full
    for step in range(2, steps + 1):
        tracker.log({"a": 1.0}, step)
    tracker.close()
    assert time.monotonic() - start < 1.5
    rows = read_metrics(tmp_path / "metrics.jsonl").rows
    assert len(rows) == steps
    assert [row["fault/tracker"] for row in rows[-2:]] == [0, 1]
    assert caplog.text.count("does not keep up") == 1
    assert stuck.abandoned


def test_close_waits_for_all_copies_together_no_longer_than_its_timeout(tmp_path: Path, caplog, stuck: Stuck) -> None:
    other, good = Stuck(), Recorder()
    tracker = make(tmp_path, timeout_s=0.3, stuck=stuck, other=other, good=lambda: good)
    tracker.log({"a": 1.0}, 1)
    start = time.monotonic()
    tracker.close()
    other.release.set()
    assert time.monotonic() - start < 5
    assert caplog.text.count("did not finish in time") == 2
    assert [stuck.abandoned, other.abandoned] == [True, True]
    assert good.closed


@pytest.mark.parametrize("where", ["start", "log"])
@pytest.mark.parametrize("waiting", [0, 1, QUEUE_SIZE])
def test_a_copy_that_answers_after_its_deadline_is_closed(stuck: Stuck, where: str, waiting: int) -> None:
    """Its thread ends, whether or not calls wait for it."""
    now = [100.0]
    stuck.start_timeout_s = stuck.call_timeout_s = 7.0
    stuck.hangs_at_start = where == "start"
    copy = Copy("stuck", stuck, clock=lambda: now[0])
    if where == "log":
        copy.offer(lambda tracker: tracker.log({}, 1))
    assert stuck.entered.wait(30)
    for _ in range(waiting):
        copy.offer(lambda tracker: tracker.log_rollouts([], 1))
    now[0] += 7.1
    copy.offer(lambda tracker: tracker.log_rollouts([], 2))
    assert copy.failure == "it does not answer in time"
    stuck.release.set()
    copy._thread.join(30)
    assert not copy._thread.is_alive()
    assert (stuck.closed, stuck.rollouts) == (True, [])


def test_values_that_are_not_finite_are_counted_and_named(tmp_path: Path, caplog) -> None:
    tracker = make(tmp_path)
    tracker.log({"a": math.nan, "mars/anchor/\x1b[2J/mean": math.inf, "c": 1.0}, 1)
    tracker.close()
    assert read_metrics(tmp_path / "metrics.jsonl").rows[0]["fault/nonfinite_metrics"] == 2
    assert r"a=nan, mars/anchor/\x1b[2J/mean=inf" in caplog.text


def test_rollouts_are_sampled_before_they_wait(tmp_path: Path) -> None:
    copy = Recorder()
    tracker = make(tmp_path, every=3, prompts=2, copy=lambda: copy)
    rollouts = [make_rollouts(str(number), [0.5], visible=[0.5]) for number in range(6)]
    for step in range(1, 8):
        tracker.log_rollouts(rollouts if step % 2 else rollouts[::-1], step)
    tracker.close()
    assert [step for step, _ in copy.rollouts] == [1, 3, 6]
    assert all(len(prompts) == 2 for _, prompts in copy.rollouts)


def test_no_rollouts_where_none_are_wanted(tmp_path: Path) -> None:
    copy = Recorder()
    tracker = make(tmp_path, every=0, copy=lambda: copy)
    tracker.log_rollouts([make_rollouts("a", [0.5], visible=[0.5])], 1)
    tracker.close()
    assert copy.rollouts == []
