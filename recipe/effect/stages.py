"""The stages before the runs of a study: making the benchmark's rows and the cold starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mars.errors import ConfigError, DataError
from mars.output.files import write_atomically
from recipe.effect.plan import DATA_FOLDER, ColdStart
from recipe.effect.processes import Task
from recipe.effect.study import Study

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = Path(__file__).with_name("cold_starts")
ROWS_FILE = "rows.json"  # beside the rows: the seed and the sizes that they were made with
POLICY_FOLDER = "policy"  # the same as in mars/run_dir/outcome.py


@dataclass(frozen=True)
class Stages:
    """The stages of a study in the folder `out`. shipped: the folder of cold starts that come with the benchmark."""

    study: Study
    out: Path
    shipped: Path = SHIPPED

    def policy(self, start: ColdStart) -> Path:
        """The folder of a cold start's model: a shipped one if there is one, else the one that the study makes."""
        shipped = self.shipped / f"{start.dial:g}_{start.number}"
        return shipped if shipped.is_dir() else self.out / start.name / POLICY_FOLDER

    def tasks(self, starts: Sequence[ColdStart]) -> list[Task]:
        """The tasks that make the missing rows and cold starts.

        Raises ConfigError if there are rows that were made with another seed or size.
        """
        missing = [start for start in starts if not self.policy(start).is_dir()]
        rows = [] if self._has_rows() else [self._rows()]
        return [*rows, *map(self._cold_start, missing)]

    def note_rows(self) -> None:
        """Record that the rows of the study are complete. Raises SetupError."""
        write_atomically(self.out / DATA_FOLDER / ROWS_FILE, self.study.data.model_dump_json(indent=1) + "\n")

    def _has_rows(self) -> bool:
        folder, wanted = self.out / DATA_FOLDER, self.study.data.model_dump(mode="json")
        try:
            found = json.loads((folder / ROWS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False  # there are no rows, or making them was interrupted
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / ROWS_FILE}: cannot be read ({error}); remove the folder {folder}") from error
        if found != wanted:
            remedy = f"remove {folder} and the runs that were trained on it, or give another OUT"
            raise ConfigError(f"data: {folder} has the rows of {found}; got {wanted}; {remedy}")
        return all((folder / f"{part}.parquet").is_file() for part in ("train", "test"))

    def _rows(self) -> Task:
        data, folder = self.study.data, self.out / DATA_FOLDER
        sizes = ["--train", str(data.train), "--test", str(data.test), "--cold-start", "0"]
        command = [sys.executable, "-m", "mars.cli.main", "data", "synth", str(folder), "--scenes", "benchmark"]
        command += ["--seed", str(data.seed), "--bias", "0.5", *sizes]
        return Task(DATA_FOLDER, command, self.out / "data.log", after=self.note_rows)

    def _cold_start(self, start: ColdStart) -> Task:
        command = [sys.executable, "-m", "recipe.effect.cold_start", "--dial", f"{start.dial:g}"]
        given = ["--seed", str(start.number), "--out", str(self.out / start.name)]
        return Task(start.name, [*command, *given], self.out / f"{start.name}.log")
