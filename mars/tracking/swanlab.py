"""Copy a run's metrics and sampled rollouts to SwanLab."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from mars.output.files import replacing
from mars.tracking.jsonl import finite_or_none
from mars.tracking.pictures import RolloutPictures
from mars.tracking.sources import source_curves
from mars.tracking.tracker import TrackedRun
from mars.types import PromptRollouts

FOLDER = "swanlab"
RUN_ID_FILE = "run_id"
_MODE = "SWANLAB_MODE"
_ID_CHARACTERS = 21


class SwanLabTracker:
    """Sends metrics to one SwanLab experiment. The environment variable SWANLAB_MODE says where to. Without it, all
    data stay in <run.dir>/swanlab ("offline").

    With SWANLAB_MODE=cloud a resumed run continues the experiment whose id is in <run.dir>/swanlab/run_id. In the other
    modes each attempt is a new experiment. If a step is trained again, SwanLab keeps the step's first row.
    pictures: None draws no rollouts.
    """

    def __init__(self, run: TrackedRun, pictures: RolloutPictures | None) -> None:
        self._swanlab, self._pictures = import_module("swanlab"), pictures
        folder, mode = run.folder / FOLDER, os.environ.get(_MODE) or "offline"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = {"id": _run_id(folder / RUN_ID_FILE, run.resumed_step), "resume": "allow"} if mode == "cloud" else {}
        self._swanlab.init(
            project=run.project,
            experiment_name=run.name,
            config=dict(run.config),
            logdir=str(folder),
            mode=mode,
            **kept,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        numbers = {key: finite_or_none(value) for key, value in {**metrics, **source_curves(metrics)}.items()}
        self._swanlab.log({key: value for key, value in numbers.items() if value is not None}, step=step)

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        pictures = [] if self._pictures is None else self._pictures(rollouts, step)
        if pictures:
            image = self._swanlab.Image
            self._swanlab.log({one.tag: image(one.image, caption=one.caption) for one in pictures}, step=step)

    def close(self) -> None:
        self._swanlab.finish()

    def close_failed(self) -> None:
        self._swanlab.finish(state="crashed", error="the run did not reach its end")


def _run_id(path: Path, resumed_step: int | None) -> str:
    """The id in the file, if the run is resumed and has one. Otherwise a new id, which is written to the file."""
    if resumed_step is not None and path.is_file():
        return path.read_text(encoding="ascii").strip()
    made = secrets.token_hex(_ID_CHARACTERS)[:_ID_CHARACTERS]
    with replacing(path) as draft:
        draft.write_text(f"{made}\n", encoding="ascii")
    return made
