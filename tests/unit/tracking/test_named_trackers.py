"""The trackers that `tracking.to` names, with stand-ins for their packages that record calls."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from mars.config.run_sections import TRACKERS
from mars.errors import ConfigError, SetupError
from mars.tracking import named
from mars.tracking.jsonl import JsonlTracker, read_metrics
from mars.tracking.mlflow import MlflowTracker
from mars.tracking.multi import MultiTracker
from mars.tracking.pictures import Picture
from mars.tracking.swanlab import SwanLabTracker
from mars.tracking.tensorboard import TensorBoardTracker
from mars.tracking.tracker import TrackedRun

METRICS = {"critic/score/mean": 0.5, "mars/anchor/depth/mean": 0.25, "odd": float("nan")}
COPIES = {"sources/score/multi": 0.5, "sources/score/depth": 0.25}
SENT = {"critic/score/mean": 0.5, "mars/anchor/depth/mean": 0.25, **COPIES}

OWN = """
class Notes:
    def __init__(self, tracked):
        self.rows = [tracked.name]

    def log(self, metrics, step):
        self.rows.append(step)
        BODY

    def log_rollouts(self, rollouts, step):
        pass

    def close(self):
        pass
"""


def run_of(folder: Path, resumed_step: int | None = None) -> TrackedRun:
    return TrackedRun("project", "name", folder, {"run": {"seed": 1}, "ramps": [], "empty": {}}, 9, 5.0, resumed_step)


def pictures(rollouts, step) -> list[Picture]:
    return [Picture("rollouts/prompt_1", Image.new("RGB", (3, 2)), f"step {step}\n*bold*")]


class Calls:
    """Records calls as (name, arguments). Every attribute can be called and returns `answers[name]`."""

    def __init__(self, **answers) -> None:
        self.made: list[tuple] = []
        self.answers = answers

    def __getattr__(self, name: str):
        def call(*args, **named_args):
            self.made.append((name, args, named_args))
            return self.answers.get(name)

        return call

    def of(self, name: str) -> list[tuple]:
        return [(args, named_args) for made, args, named_args in self.made if made == name]


def test_the_settings_know_the_same_names() -> None:
    assert set(TRACKERS) == {"console", "report", *named.PACKAGES}


@pytest.mark.parametrize("name", ["tensorboard", "swanlab", "mlflow"])
def test_a_missing_package_is_refused_with_what_to_install(name, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, name, raising=False)
    wrong = rf"tracking\.to: {name} needs a package that is not installed; pip install {name}, or leave it out"
    with pytest.raises(SetupError, match=wrong):
        named.checked(["console", name])


def test_a_class_of_a_users_file_is_made_with_the_run(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("BODY", ""))
    names = named.checked([f"{file}:Notes"])
    assert named.own_specs(["console", *names]) == names
    (make,) = named.factories(names, run_of(tmp_path), None, print).values()
    tracker = make()
    tracker.log({}, 3)
    assert tracker.rows == ["name", 3]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (OWN.replace("def close(self)", "def finish(self)"), "has no method 'close'"),
        (OWN.replace("log(self, metrics, step)", "log(self, metrics)"), r"log takes \(self, metrics\)"),
        (OWN.replace("__init__(self, tracked)", "__init__(self)"), r"takes \(\)"),
    ],
)
def test_a_class_that_is_no_tracker_is_refused(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"tracking\.to: .*{wrong}"):
        named.checked([f"{file}:Notes"])


def test_a_users_tracker_that_raises_is_switched_off_and_said_once(tmp_path: Path, caplog) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("BODY", "raise OSError('full')"))
    made = named.factories(named.checked([f"{file}:Notes"]), run_of(tmp_path), None, print)
    tracker = MultiTracker(JsonlTracker(tmp_path / "metrics.jsonl", None), made, 0, 1, 30.0)
    for step in (1, 2, 3):
        tracker.log({"a": 1.0}, step)
    tracker.close()
    assert caplog.text.count("is switched off: OSError: full") == 1
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl").rows] == [1, 2, 3]


def test_tensorboard_gets_numbers_pictures_and_one_chart_of_the_sources(tmp_path: Path, monkeypatch) -> None:
    writer = Calls()
    opened = []
    module = types.SimpleNamespace(
        SummaryWriter=lambda *args, **named_args: opened.append((args, named_args)) or writer
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    tracker = TensorBoardTracker(run_of(tmp_path, resumed_step=4), pictures)
    tracker.log(METRICS, 5)
    tracker.log_rollouts([], 5)
    tracker.close()
    assert opened == [((str(tmp_path / "tensorboard"),), {"purge_step": 5})]
    assert {args[0]: args[1:] for args, _ in writer.of("add_scalar")} == {
        key: (value, 5) for key, value in SENT.items()
    }
    (((layout,), _),) = writer.of("add_custom_scalars")
    assert layout["sources"]["score"] == ["Multiline", ["^sources/score/.+"]]
    (((tag, pixels, step), form),) = writer.of("add_image")
    assert (tag, pixels.shape, step, form) == ("rollouts/prompt_1", (2, 3, 3), 5, {"dataformats": "HWC"})
    (((_, text, _), _),) = writer.of("add_text")
    assert text == "    step 5\n    *bold*"
    assert writer.of("close")


@pytest.fixture
def swanlab(monkeypatch) -> Calls:
    module = Calls(Image="the picture")
    monkeypatch.setitem(sys.modules, "swanlab", module)
    monkeypatch.delenv("SWANLAB_MODE", raising=False)
    return module


def test_swanlab_stays_offline_unless_the_environment_says_otherwise(tmp_path: Path, swanlab, monkeypatch) -> None:
    tracker = SwanLabTracker(run_of(tmp_path), pictures)
    tracker.log(METRICS, 5)
    tracker.log_rollouts([], 5)
    tracker.close()
    monkeypatch.setenv("SWANLAB_MODE", "cloud")
    SwanLabTracker(run_of(tmp_path), None)
    SwanLabTracker(run_of(tmp_path, resumed_step=5), None)
    first, second, resumed = (arguments for _, arguments in swanlab.of("init"))
    assert (first["mode"], first["logdir"], "id" in first) == ("offline", str(tmp_path / "swanlab"), False)
    assert (second["mode"], resumed["id"]) == ("cloud", second["id"])
    assert swanlab.of("log") == [((SENT,), {"step": 5}), (({"rollouts/prompt_1": "the picture"},), {"step": 5})]
    tracker.close_failed()
    crashed = {"state": "crashed", "error": "the run did not reach its end"}
    assert swanlab.of("finish") == [((), {}), ((), crashed)]


@pytest.fixture
def mlflow(monkeypatch) -> Calls:
    """The client; `uris` has what it was made with."""
    run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
    client = Calls(create_experiment="7", create_run=run)
    client.uris = []
    entities = types.SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values)
    module = types.SimpleNamespace(MlflowClient=lambda uri: client.uris.append(uri) or client, entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")  # so that it is as before when the test ends
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    return client


def test_mlflow_gets_settings_metrics_and_pictures(tmp_path: Path, mlflow) -> None:
    tracker = MlflowTracker(run_of(tmp_path), pictures)
    tracker.log({**METRICS, "share:odd": 1}, 5)
    tracker.log_rollouts([], 5)
    tracker.close()
    assert mlflow.uris == [f"sqlite:///{tmp_path}/mlflow/mlflow.db"]
    (((experiment,), more),) = mlflow.of("create_experiment")
    assert (experiment, more) == ("project", {"artifact_location": (tmp_path / "mlflow" / "artifacts").as_uri()})
    (settings, row) = (sent for _, sent in mlflow.of("log_batch"))
    assert settings["params"] == [("run.seed", "1"), ("ramps", "[]"), ("empty", "{}")]
    sent = {key: (value, step) for key, value, _, step in row["metrics"]}
    assert sent == {key: (value, 5) for key, value in {**SENT, "share_odd": 1.0}.items()}
    assert mlflow.of("log_image")[0][1] == {"key": "rollouts/prompt_1", "step": 5}
    tracker.close_failed()
    assert mlflow.of("set_terminated") == [(("abc",), {}), (("abc",), {"status": "FAILED"})]


def test_mlflow_tells_its_makers_nothing_unless_the_environment_says_so(tmp_path: Path, mlflow, monkeypatch) -> None:
    MlflowTracker(run_of(tmp_path), None)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    MlflowTracker(run_of(tmp_path), None)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_a_resumed_run_goes_on_with_its_run_of_mlflow(tmp_path: Path, mlflow, monkeypatch) -> None:
    MlflowTracker(run_of(tmp_path), None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    MlflowTracker(run_of(tmp_path, resumed_step=4), None)
    assert mlflow.of("update_run") == [(("abc",), {"status": "RUNNING"})]
    assert len(mlflow.of("create_run")) == 1
    assert mlflow.uris[1] == "http://server"
