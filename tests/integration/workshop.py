"""A small data set and a tiny model on disk, and jobs started as a user starts them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.integration.forked import RUN, VLLM_RUN, Forked, fork

ROOT = Path(__file__).parents[2]
# Random text scores nothing; these rewards vary, so that there is a gradient.
REWARDS = Path(__file__).with_name("varied_reward.py")
TIMEOUT_S = 280.0


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
            "tracking.to=[console]",
            f"reward.function='{REWARDS}:score'",
        ]

    def train(self, run_dir: Path, *overrides: str, **environment: str) -> Job:
        return run(["-m", "mars.main", *self.overrides(), f"run.dir='{run_dir}'", *overrides], run_dir, **environment)


def run(arguments: list[str], run_dir: Path, modules: tuple[str, ...] | None = None, **environment: str) -> Job:
    """`python arguments` from a folder that is not the project's; see `start`."""
    with TemporaryDirectory() as folder:
        process = start(arguments, run_dir.parent, Path(folder), modules, **environment)
        return Job(process.finish(TIMEOUT_S), process.stdout, process.stderr, run_dir)


def start(
    arguments: list[str],
    cwd: Path,
    output: Path,
    modules: tuple[str, ...] | None = None,
    *,
    fresh: bool = False,
    **environment: str,
) -> Forked:
    """Start `python arguments`, which writes `output`/stdout and `output`/stderr.

    modules: what to import before the process is forked; None: what the job of these settings imports.
    fresh: in a new interpreter, for what it does when it starts. environment: beside that of this process.
    """
    common = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    modules = _modules(arguments) if modules is None else modules
    return fork(arguments, cwd, {**os.environ, **common, **environment}, output, modules, fresh=fresh)


def _modules(settings: list[str]) -> tuple[str, ...]:
    local = {"cluster=local", "cluster.kind=local"} & set(settings)
    other_engine = {"rollout=hf", "rollout.engine=hf", "rollout=scripted", "rollout.engine=scripted"} & set(settings)
    return VLLM_RUN if local and not other_engine else RUN


LOCAL = ("cluster=local", "cluster.device=cpu", "actor.num_workers=1")
