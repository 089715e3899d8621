"""The trackers with the real packages, as far as they are installed: what is written is read back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from mars.tracking.jsonl import METRICS_FILE, JsonlTracker
from mars.tracking.named import factories
from mars.tracking.pictures import Picture
from mars.tracking.tracker import TrackedRun, Tracker

SOURCE, NAME = "红外", "تجربة 实验"
METRICS = {"critic/score/mean": 0.5, f"mars/anchor/{SOURCE}/mean": 0.25, "odd": float("nan"), "large": float("inf")}
SENT = {"critic/score/mean": 0.5, f"mars/anchor/{SOURCE}/mean": 0.25, "sources/score/multi": 0.5}
SENT[f"sources/score/{SOURCE}"] = 0.25
CAPTION = "在哪里？ أين؟\n<b>second</b> line"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """As a user has it who has said nothing, and again as before at the end."""
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_TRACKING_URI", "SWANLAB_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def pictures(rollouts, step) -> list[Picture]:
    return [Picture("rollouts/prompt_1", Image.new("RGB", (30, 20), (0, 80, step)), CAPTION)]


def tracker(name: str, folder: Path, resumed_step: int | None = None, timeout_s: float = 60.0) -> Tracker:
    config = {"run": {"seed": 1}, "text": SOURCE * 400}
    run = TrackedRun("project", NAME, folder, config, 9, timeout_s, resumed_step)
    (make,) = factories([name], run, pictures, lambda: None).values()
    return make()


def two_attempts(name: str, folder: Path) -> None:
    """Steps 1 to 3, which fails; resumed after step 2, step 3 again."""
    truth = JsonlTracker(folder / METRICS_FILE, None)
    first = tracker(name, folder)
    for step in (1, 2, 3):
        first.log(METRICS, step)
        truth.log(METRICS, step)
    first.log_rollouts([], 1)
    getattr(first, "close_failed", first.close)()
    truth.close()
    second = tracker(name, folder, resumed_step=2)
    second.log({**METRICS, "critic/score/mean": 0.75}, 3)
    second.close()


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a header of 7 bytes, then blocks of 32 KiB with checksum, length and type of each
    part of a record (LevelDB's log format)."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def test_wandb_offline(tmp_path: Path) -> None:
    two_attempts("wandb", tmp_path)
    from wandb.proto import wandb_internal_pb2

    attempts = []
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb")):
        rows: list[Mapping[str, object]] = []
        ends = []
        for data in records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                assert (record.run.display_name, record.run.project) == (NAME, "project")
                ends.append(record.run.run_id)
            elif record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
            elif record.WhichOneof("record_type") == "exit":
                ends.append(record.exit.exit_code)
        attempts.append((rows, ends))
    (first, (run_id, failed)), (second, (same_id, finished)) = attempts
    assert (failed, finished, same_id) == (1, 0, run_id)
    assert [{key: row.get(key) for key in (*SENT, "odd", "large")} for row in first[:3]] == [
        {**SENT, "odd": None, "large": None}
    ] * 3
    assert first[3]["step"] == 1
    assert first[3]["rollouts/prompt_1/caption"] == CAPTION
    picture = next((tmp_path / "wandb").glob(f"offline-run-*/files/{first[3]['rollouts/prompt_1/path']}"))
    assert Image.open(picture).size == (30, 20)
    assert [(row["step"], row["critic/score/mean"]) for row in second] == [(1, 0.5), (2, 0.5), (3, 0.75)]


def test_wandb_without_its_server(tmp_path: Path, monkeypatch, caplog) -> None:
    """Nothing listens there. The service that has begun the run online would refuse to begin it offline."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    made = tracker("wandb", tmp_path, timeout_s=4.0)
    made.log(METRICS, 1)
    made.close()
    assert "this run is recorded offline" in caplog.text
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    two_attempts("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(SENT)
    scores = events.Scalars("critic/score/mean")
    assert [(score.step, score.value) for score in scores] == [(1, 0.5), (2, 0.5), (3, 0.75)]
    (picture,) = events.Images("rollouts/prompt_1")
    assert (picture.step, picture.width, picture.height) == (1, 30, 20)
    (text,) = events.Tensors("rollouts/prompt_1/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "    " + CAPTION.replace("\n", "\n    ")


def test_mlflow_with_its_database(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny is installed without SQLAlchemy, which its database needs")
    two_attempts("mlflow", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("project").experiment_id])
    assert (run.info.run_name, run.info.status) == (NAME, "FINISHED")
    assert run.data.params == {"run.seed": "1", "text": (SOURCE * 400)[:500]}
    assert run.data.metrics == {**SENT, "critic/score/mean": 0.75, "sources/score/multi": 0.75}
    history = client.get_metric_history(run.info.run_id, "critic/score/mean")
    assert [(value.step, value.value) for value in history] == [(1, 0.5), (2, 0.5), (3, 0.5), (3, 0.75)]
    (caption,) = (tmp_path / "mlflow" / "artifacts").glob("*/artifacts/rollouts/prompt_1/step_000001.txt")
    assert caption.read_text(encoding="utf-8") == CAPTION


def test_swanlab_offline(tmp_path: Path) -> None:
    pytest.importorskip("swanlab", reason="the package swanlab is not installed")
    two_attempts("swanlab", tmp_path)
    first, second = sorted((tmp_path / "swanlab").glob("run-*"), key=lambda folder: folder.stat().st_ctime)
    for folder in (first, second):
        (file,) = folder.glob("run-*.swanlab")
        assert all(key.encode() in file.read_bytes() for key in SENT)
        assert b"odd" not in file.read_bytes()
    (picture,) = first.glob("media/image/*.png")
    assert Image.open(picture).size == (30, 20)
