from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from mars.errors import ConfigError, SetupError
from mars.tracking.jsonl import JsonlTracker, read_metrics
from mars.tracking.multi import Copy, MultiTracker
from mars.tracking.named import checked, factories
from mars.tracking.tracker import TrackedRun
from mars.tracking.wandb import Mode, WandbFactory, wandb_mode


class FakeError(Exception):
    pass


class FakeRun:
    resumed = False

    def __init__(self, at: Callable[[str], None], **arguments) -> None:
        self.at = at
        self.arguments = arguments
        self.rows: list[dict] = []
        self.step_metrics: dict[str, str | None] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.step_metrics[name] = step_metric

    def log(self, row: dict) -> None:
        self.at("log")
        self.rows.append(row)

    def finish(self, exit_code: int | None = None) -> None:
        self.at("finish")
        self.finished = True
        self.exit_code = exit_code


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A wandb module. online_fails: what a start online raises. at: called with "init", "log" or "finish"."""
    module = types.SimpleNamespace(
        runs=[],
        online_fails=None,
        at=lambda what: None,
        Error=FakeError,
        Settings=lambda **settings: settings,
        Image=lambda image, caption: (image, caption),
    )

    def init(**arguments) -> FakeRun:
        module.at("init")
        if arguments["mode"] == "online" and module.online_fails is not None:
            raise module.online_fails
        module.runs.append(FakeRun(lambda what: module.at(what), **arguments))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    return module


def factory(tmp_path: Path, mode: Mode, resumed_step: int | None = None, timeout_s: float = 7.0) -> WandbFactory:
    return WandbFactory(tracked_run(tmp_path, resumed_step, timeout_s), mode, None, on_start=lambda: None)


def tracked_run(tmp_path: Path, resumed_step: int | None = None, timeout_s: float = 7.0) -> TrackedRun:
    return TrackedRun("mars", "run", tmp_path / "run", {"seed": 1}, 5, timeout_s, resumed_step)


def test_rows_carry_their_step_so_that_a_resumed_run_may_go_back(tmp_path: Path, fake_wandb) -> None:
    tracker = factory(tmp_path, "offline")()
    tracker.log({"a": 1.0, "b": float("nan")}, 5)
    tracker.log({"a": 2.0}, 3)
    tracker.close()
    (run,) = fake_wandb.runs
    assert run.rows == [{"step": 5, "a": 1.0}, {"step": 3, "a": 2.0}]
    assert run.step_metrics == {"step": None, "*": "step"}
    assert run.finished


def test_every_wait_of_wandb_has_a_limit(tmp_path: Path, fake_wandb) -> None:
    factory(tmp_path, "offline")()
    settings = fake_wandb.runs[0].arguments["settings"]
    assert {settings[name] for name in ("init_timeout", "login_timeout", "finish_timeout")} == {7.0}


@pytest.mark.parametrize("error", [FakeError("no login"), ConnectionError("refused"), TimeoutError("no answer")])
def test_no_server_means_offline_with_a_notice(tmp_path: Path, fake_wandb, caplog, error: Exception) -> None:
    """The service is stopped in between: it would refuse the second run, because it still has one of this id."""
    order = []
    fake_wandb.online_fails = error
    fake_wandb.teardown = lambda: order.append(len(fake_wandb.runs))
    factory(tmp_path, "online")()
    assert [run.arguments["mode"] for run in fake_wandb.runs] == ["offline"]
    assert order == [0]
    assert "recorded offline" in caplog.text


def test_online_stays_online(tmp_path: Path, fake_wandb) -> None:
    factory(tmp_path, "online")()
    assert [run.arguments["mode"] for run in fake_wandb.runs] == ["online"]


@pytest.mark.parametrize("modes", [("offline", "offline"), ("online", "online"), ("offline", "online")])
def test_a_resumed_run_continues_the_same_run_of_wandb(tmp_path: Path, fake_wandb, modes: tuple[str, str]) -> None:
    """Also where its tracker is made anew in the same process, and where the server is down in between."""
    starts = ((modes[0], None, None), (modes[1], -1, None), ("online", 3, FakeError("no login")))
    for mode, resumed_step, error in starts:
        fake_wandb.online_fails = error
        tracker = factory(tmp_path, mode, resumed_step)()
        tracker.log({"a": 1.0}, 3)
        tracker.close()
    ids = {run.arguments["id"] for run in fake_wandb.runs}
    assert ids == {(tmp_path / "run" / "wandb" / "run_id").read_text().strip()}
    assert {(run.arguments["resume"], run.arguments["reinit"]) for run in fake_wandb.runs} == {("allow", "create_new")}
    assert all(run.arguments["allow_val_change"] for run in fake_wandb.runs)
    (tmp_path / "other").mkdir()
    factory(tmp_path / "other", "offline")()
    assert fake_wandb.runs[-1].arguments["id"] not in ids


def test_a_new_run_joins_no_run_that_the_folder_had(tmp_path: Path, fake_wandb) -> None:
    for resumed_step in (None, None, -1):
        factory(tmp_path, "offline", resumed_step)()
    first, second, resumed = (run.arguments["id"] for run in fake_wandb.runs)
    assert first != second
    assert resumed == second


@pytest.mark.parametrize("resumed", [False, True])
def test_rows_that_wandb_does_not_have_are_logged_again(tmp_path, fake_wandb, monkeypatch, resumed: bool) -> None:
    """Offline every time, online where the rows before were recorded offline."""
    monkeypatch.setattr(FakeRun, "resumed", resumed)
    (tmp_path / "run").mkdir()
    rows = [{"step": 1, "a": 1.0, "b": None}, {"step": 2, "a": 2.0}, {"step": 3, "a": 3.0}]  # 3 comes through `log`
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for resumed_step, kept in ((2, [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}]), (-1, []), (None, [])):
        tracker = factory(tmp_path, "online", resumed_step)()
        tracker.log({"a": 3.0}, 3)
        assert fake_wandb.runs[-1].rows == [*([] if resumed else kept), {"step": 3, "a": 3.0}]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a/b", b"0123456789abcdef" * 999, b"UPPERCAS"])
def test_a_damaged_id_is_replaced(tmp_path: Path, fake_wandb, content: bytes) -> None:
    kept = tmp_path / "run" / "wandb" / "run_id"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)
    for _ in range(2):
        factory(tmp_path, "offline", resumed_step=3)()
    first, second = (run.arguments["id"] for run in fake_wandb.runs)
    assert (first, len(first)) == (second, 8)
    assert kept.read_text() == f"{first}\n"


def test_an_id_of_the_environment_wins(tmp_path: Path, fake_wandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    factory(tmp_path, "offline")()
    assert fake_wandb.runs[0].arguments["id"] == "mine"


@pytest.fixture
def hang() -> Iterator[Callable[[], None]]:
    """Hangs until the test is over. hang.entered: set when it begins."""
    entered, over = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        over.wait()

    hang.entered = entered
    yield hang
    over.set()


def fail() -> None:
    raise RuntimeError("broken pipe")


def run_with(tmp_path: Path, timeout_s: float) -> tuple[MultiTracker, WandbFactory]:
    made = factory(tmp_path, "offline", timeout_s=timeout_s)
    return MultiTracker(JsonlTracker(tmp_path / "metrics.jsonl", None), {"wandb": made}, 0, 1, timeout_s), made


@pytest.mark.parametrize("where", ["init", "log", "finish"])
@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_wandb_that_fails_is_off_with_one_notice(tmp_path, fake_wandb, monkeypatch, caplog, hang, where, how) -> None:
    """Rows are written without it, and the end does not wait for longer than the deadline."""
    abandoned = []
    monkeypatch.setattr(WandbFactory, "abandon", lambda self: abandoned.append(self))
    what = fail if how == "raises" else hang
    fake_wandb.at = lambda now: what() if now == where else None
    tracker, made = run_with(tmp_path, timeout_s=0.01 if how == "hangs" else 30.0)
    tracker.log({"a": 1.0}, 1)
    if how == "hangs" and where != "finish":
        assert hang.entered.wait(30)
    tracker.log({"a": 2.0}, 2)
    tracker.close()
    assert [row["a"] for row in read_metrics(tmp_path / "metrics.jsonl").rows] == [1.0, 2.0]
    assert caplog.text.count("tracker wandb is switched off: ") == 1
    assert caplog.text.count("metrics.jsonl has all") == 1
    assert abandoned == [made]


@pytest.mark.parametrize(("where", "allowed_s"), [("init", 81.0), ("log", 7.0)])
def test_wandb_that_hangs_is_off_at_the_first_row_after_its_deadline(
    tmp_path, fake_wandb, caplog, hang, where, allowed_s
):
    now = [100.0]
    fake_wandb.at = lambda what: hang() if what == where else None
    copy = Copy("wandb", factory(tmp_path, "offline"), clock=lambda: now[0])
    copy.offer(lambda tracker: tracker.log({"a": 1.0}, 1))
    assert hang.entered.wait(30)
    now[0] += allowed_s
    copy.offer(lambda tracker: tracker.log({"a": 2.0}, 2))
    assert copy.failure is None
    now[0] += 0.1
    for step in (3, 4):
        copy.offer(lambda tracker, step=step: tracker.log({"a": 3.0}, step))
    assert copy.failure == "it does not answer in time"
    assert caplog.text.count("switched off") == 1


def test_a_tracker_that_has_nothing_to_do_misses_no_deadline(tmp_path, fake_wandb) -> None:
    now, logged = [100.0], threading.Event()
    copy = Copy("wandb", factory(tmp_path, "offline"), clock=lambda: now[0])
    copy.offer(lambda tracker: logged.set())
    assert logged.wait(30)
    while copy._deadline is not None:  # the thread is about to wait for the next call
        pass
    now[0] += 1e6
    copy.end()
    copy.join(time.monotonic() + 30)
    assert copy.failure is None
    assert fake_wandb.runs[0].finished


@pytest.mark.parametrize("at", [None, "init"])
def test_its_process_is_reported_also_if_it_fails_to_start(tmp_path: Path, fake_wandb, at: str | None) -> None:
    started: list[int] = []
    fake_wandb.at = lambda now: fail() if now == at else None
    made = dataclasses.replace(factory(tmp_path, "offline"), on_start=lambda: started.append(len(fake_wandb.runs)))
    assert started == []
    with pytest.raises(RuntimeError) if at else nullcontext():
        made()
    assert started == [0 if at else 1]


def test_it_stays_offline_unless_the_environment_says_otherwise(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode() == "offline"
    for mode, made in (("", ["offline"]), ("online", ["online"]), ("disabled", [])):
        monkeypatch.setenv("WANDB_MODE", mode)
        found = factories(["wandb"], tracked_run(tmp_path), None, print).values()
        assert [factory.mode for factory in found if isinstance(factory, WandbFactory)] == made
    monkeypatch.setenv("WANDB_MODE", "on")
    with pytest.raises(ConfigError, match="WANDB_MODE: not one of the modes; got 'on'; give offline, online, disabled"):
        checked(["wandb"])


@pytest.mark.parametrize(("given", "left"), [(None, "false"), ("true", "true")])
def test_it_reports_nothing_of_its_own_use_unless_the_environment_says_so(
    tmp_path, fake_wandb, monkeypatch, given, left
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", given or "")  # so that it is as before when the test ends
    if given is None:
        monkeypatch.delenv("WANDB_ERROR_REPORTING")
    WandbFactory(tracked_run(tmp_path), "offline", None, print)()
    assert os.environ.get("WANDB_ERROR_REPORTING") == left


def test_a_folder_called_wandb_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(
        SetupError, match=r"tracking\.to: wandb needs a package that is not installed; pip install wandb"
    ):
        checked(["wandb"])


def test_abandoning_kills_only_the_service_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Child:
        def __init__(self, name: str) -> None:
            self.label, self.killed = name, False

        def name(self) -> str:
            if self.label == "gone":
                raise psutil.NoSuchProcess(1)
            return self.label

        def kill(self) -> None:
            self.killed = True

    children = [Child(name) for name in ("gone", "raylet", "wandb-core", "python")]
    monkeypatch.setattr(psutil, "Process", lambda: types.SimpleNamespace(children=lambda: children))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)  # it was not even imported
    factory(tmp_path, "offline").abandon()
    assert [child.label for child in children if child.killed] == ["wandb-core"]


@pytest.mark.parametrize("how", ["works", "raises", "hangs"])
def test_an_abandoned_wandb_takes_back_its_exit_hook(tmp_path, fake_wandb, monkeypatch, hang, how: str) -> None:
    """The hook would print a traceback, and the tracker of a trainer that is built again would meet a dead process."""
    called = threading.Event()

    def teardown() -> None:
        called.set()
        if how != "works":
            fail() if how == "raises" else hang()

    fake_wandb.teardown = teardown
    monkeypatch.setattr(psutil, "Process", lambda: types.SimpleNamespace(children=list))
    monkeypatch.setattr("mars.tracking.wandb._TEARDOWN_S", 0.01)
    factory(tmp_path, "offline").abandon()
    assert called.wait(30)
