"""What has to be there before the runs: the benchmark's rows, and the cold starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.effect.plan import DATA_FOLDER, ColdStart
from recipe.effect.processes import Task
from recipe.effect.study import Study

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = Path(__file__).with_name("cold_starts")
POLICY_FOLDER = "policy"  # that of mars/job.py, which would import torch


@dataclass(frozen=True)
class Stages:
    """The stages of a study in the folder `out`. shipped: the folder of cold starts that come with the benchmark."""

    study: Study
    out: Path
    shipped: Path = SHIPPED

    def policy(self, start: ColdStart) -> Path:
        """The folder of a cold start's model: a shipped one, else the one that the study makes for itself."""
        shipped = self.shipped / f"{start.dial:g}_{start.number}"
        return shipped if shipped.is_dir() else self.out / start.name / POLICY_FOLDER

    def tasks(self, starts: Sequence[ColdStart]) -> list[Task]:
        """What is missing of the rows and of these cold starts."""
        missing = [start for start in starts if not self.policy(start).is_dir()]
        rows = [] if (self.out / DATA_FOLDER / "test.parquet").is_file() else [self._rows()]
        return [*rows, *map(self._cold_start, missing)]

    def _rows(self) -> Task:
        data, folder = self.study.data, self.out / DATA_FOLDER
        sizes = ["--train", str(data.train), "--test", str(data.test), "--cold-start", "0"]
        command = [sys.executable, "-m", "mars.cli.main", "data", "synth", str(folder), "--scenes", "benchmark"]
        return Task(DATA_FOLDER, [*command, "--seed", str(data.seed), "--bias", "0.5", *sizes], self.out / "data.log")

    def _cold_start(self, start: ColdStart) -> Task:
        command = [sys.executable, "-m", "recipe.effect.cold_start", "--dial", f"{start.dial:g}"]
        given = ["--seed", str(start.number), "--out", str(self.out / start.name)]
        return Task(start.name, [*command, *given], self.out / f"{start.name}.log")
