"""A small data set and a tiny model on disk, and jobs started as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 280


@dataclass(frozen=True)
class Job:
    """A finished process."""

    returncode: int
    stdout: str
    stderr: str
    run_dir: Path

    @property
    def metrics(self) -> list[dict]:
        return [json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Workshop:
    """A model folder and a converted synthetic set; `train` runs mars.main on them."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def overrides(self) -> list[str]:
        return [
            "experiment=quickstart",
            f"model.path='{self.model}'",
            f"data.train_files=['{self.data}/train.parquet']",
            f"data.eval_files=['{self.data}/test.parquet']",
            "data.prompts_per_step=4",
            "actor.prompts_per_update=4",
            "rollout.samples_per_prompt=4",
            "rollout.max_response_tokens=16",
            "run.num_steps=2",
            "evaluation.before_training=false",
            "tracking.wandb=off",
            # Random text scores nothing; this reward varies, so that there is a gradient.
            f"reward.function='{Path(__file__).with_name('varied_reward.py')}:score'",
        ]

    def train(self, run_dir: Path, *overrides: str) -> Job:
        command = ["-m", "mars.main", *self.overrides(), f"run.dir='{run_dir}'", *overrides]
        return run(command, run_dir)


def run(arguments: list[str], run_dir: Path) -> Job:
    """`python arguments` from a folder that is not the project's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
        cwd=run_dir.parent,
        stdin=subprocess.DEVNULL,
    )
    return Job(done.returncode, done.stdout, done.stderr, run_dir)


LOCAL = ("cluster=local", "cluster.device=cpu", "actor.num_workers=1")
