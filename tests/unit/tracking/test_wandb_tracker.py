from __future__ import annotations

import logging
import sys
import types
from pathlib import Path

import psutil
import pytest

from mars.tracking.wandb import WandbFactory, wandb_factory


class FakeError(Exception):
    pass


class FakeRun:
    def __init__(self, **arguments) -> None:
        self.arguments = arguments
        self.rows: list[dict] = []
        self.step_metrics: dict[str, str | None] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.step_metrics[name] = step_metric

    def log(self, row: dict) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A wandb module whose server is down where `online_fails` is set."""
    module = types.SimpleNamespace(runs=[], online_fails=False, Error=FakeError, Settings=lambda **settings: settings)

    def init(**arguments) -> FakeRun:
        if arguments["mode"] == "online" and module.online_fails:
            raise FakeError("no login")
        module.runs.append(FakeRun(**arguments))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def factory(tmp_path: Path, mode: str) -> WandbFactory:
    return WandbFactory(mode, "mars", "run", tmp_path / "run", {"seed": 1}, 7.0)


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


def test_no_server_means_offline_with_a_notice(tmp_path: Path, fake_wandb, caplog) -> None:
    fake_wandb.online_fails = True
    factory(tmp_path, "online")()
    assert [run.arguments["mode"] for run in fake_wandb.runs] == ["offline"]
    assert "recorded offline" in caplog.text


def test_online_stays_online(tmp_path: Path, fake_wandb) -> None:
    factory(tmp_path, "online")()
    assert [run.arguments["mode"] for run in fake_wandb.runs] == ["online"]


def test_off_is_said(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    assert wandb_factory("off", "mars", "run", tmp_path, {}, 1.0) is None
    assert "tracking.wandb=off" in caplog.text


def test_a_folder_called_wandb_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert wandb_factory("offline", "mars", "run", tmp_path, {}, 1.0) is None
    assert "not installed" in caplog.text


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
    factory(tmp_path, "offline").abandon()
    assert [child.label for child in children if child.killed] == ["wandb-core"]
