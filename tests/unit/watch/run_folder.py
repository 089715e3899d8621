"""A run directory as a run leaves it, written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mars.answers.files import step_file, write_answers
from mars.answers.record import Answer
from mars.config.folders import CONFIG_FILE
from mars.run_dir.attempt import ATTEMPT_FILE
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.processes import this_process
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from mars.types import RewardResult, View


class RunFolder:
    """The folder of a run of `last_step` steps that has begun. Nothing holds its lock."""

    def __init__(self, path: Path, last_step: int = 4, name: str = "one") -> None:
        self.path = path
        self.attempt = path / "logs" / "attempt_1"
        self.attempt.mkdir(parents=True)
        (path / CONFIG_FILE).write_text(json.dumps({"run": {"name": name, "num_steps": 99}}))
        (self.attempt / ATTEMPT_FILE).write_text(json.dumps({"process": asdict(this_process())}))
        self.events = EventLog(path / EVENTS_FILE)
        self.events.log("started", 0, last_step=last_step, attempt="attempt_1")

    def add(self, step: int, **metrics: Any) -> None:
        """A row of metrics. Names of keywords have "__" for "/"."""
        row = {name.replace("__", "/"): value for name, value in metrics.items()}
        with (self.path / METRICS_FILE).open("a") as file:
            file.write(json.dumps({**row, "step": step}) + "\n")

    def answer(self, step: int, *answers: Answer) -> None:
        write_answers(step_file(self.path / ROLLOUTS_FOLDER, step), answers)


def answer(text: str, score: float = 1.0, view: View = None, sample: int = 0, prompt: str = "p0") -> Answer:
    return Answer(
        prompt_id=prompt, number=0, row="rows.jsonl:0", data_source="d", view=view, sample=sample, text=text,
        truth="a truth", truth_size=None, response_size=None, extra_info={}, step=3,
        reward=RewardResult(score, score, {}),
    )  # fmt: skip
