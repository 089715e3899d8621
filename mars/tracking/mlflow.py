"""Copy a run's metrics and sampled rollouts to MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from mars.output.files import replacing
from mars.tracking.jsonl import finite_or_none
from mars.tracking.pictures import RolloutPictures
from mars.tracking.sources import source_curves
from mars.tracking.tracker import TrackedRun
from mars.types import PromptRollouts

FOLDER = "mlflow"
RUN_ID_FILE = "run_id"
_SERVER = "MLFLOW_TRACKING_URI"
_REFUSED = re.compile(r"[^\w\-./ ]")  # in MLflow's names of metrics
_METRICS, _PARAMS, _PARAM_CHARACTERS = 1000, 100, 500  # MLflow's limits of a batch and of a parameter


class MlflowTracker:
    """Sends metrics to one MLflow run: on the server of the environment variable MLFLOW_TRACKING_URI, else in the
    database <run.dir>/mlflow/mlflow.db. `tracking.project` is the experiment. A resumed run continues the MLflow run
    whose id is in <run.dir>/mlflow/run_id. pictures: None draws no rollouts.
    """

    def __init__(self, run: TrackedRun, pictures: RolloutPictures | None) -> None:
        folder = run.folder / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = os.environ.get(_SERVER)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it goes to MLflow's makers, not to the server
        self._client = import_module("mlflow").MlflowClient(server or f"sqlite:///{folder.absolute() / 'mlflow.db'}")
        self._pictures = pictures
        id_file = folder / RUN_ID_FILE
        if run.resumed_step is not None and id_file.is_file():
            self._run_id = id_file.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run_id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(run.project)
        if experiment is None:
            artifacts = None if server else (folder.absolute() / "artifacts").as_uri()
            experiment_id = self._client.create_experiment(run.project, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
        self._run_id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        with replacing(id_file) as draft:
            draft.write_text(f"{self._run_id}\n", encoding="utf-8")
        self._log_settings(run.config)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        metric = import_module("mlflow.entities").Metric
        numbers = {
            _REFUSED.sub("_", key): number
            for key, value in {**metrics, **source_curves(metrics)}.items()
            if (number := finite_or_none(value)) is not None
        }
        now = int(time.time() * 1000)
        rows = [metric(key, float(value), now, step) for key, value in numbers.items()]
        for start in range(0, len(rows), _METRICS):
            self._client.log_batch(self._run_id, metrics=rows[start : start + _METRICS])

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        for picture in [] if self._pictures is None else self._pictures(rollouts, step):
            self._client.log_image(self._run_id, picture.image, key=picture.tag, step=step)
            self._client.log_text(self._run_id, picture.caption, f"{picture.tag}/step_{step:06d}.txt")

    def close(self) -> None:
        self._client.set_terminated(self._run_id)

    def close_failed(self) -> None:
        self._client.set_terminated(self._run_id, status="FAILED")

    def _log_settings(self, config: Mapping[str, Any]) -> None:
        param = import_module("mlflow.entities").Param
        rows = [param(key, str(value)[:_PARAM_CHARACTERS]) for key, value in _dotted(config)]
        for start in range(0, len(rows), _PARAMS):
            self._client.log_batch(self._run_id, params=rows[start : start + _PARAMS])


def _dotted(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted key -> value. An empty mapping counts as a value."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        key = _REFUSED.sub("_", f"{prefix}{name}")
        found += _dotted(value, f"{key}.") if isinstance(value, Mapping) and value else [(key, value)]
    return found
