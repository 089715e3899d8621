"""scripts/slurm.sh on a stand-in for Slurm whose nodes are real Ray nodes of this machine."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mars.run_dir.events import read_events
from tests.fakes.slurm import Job, Slurm
from tests.integration.workshop import ROOT, Workshop

SCRIPT = ROOT / "scripts" / "slurm.sh"
NODES = {"n1": "127.0.0.2", "n2": "127.0.0.3"}
OBJECT_STORE = ("--object-store", str(100 * 2**20))
NUM_STEPS = 6
SETTINGS = ("rollout=hf", "actor.num_workers=1", "cluster.cpus_per_worker=1", f"run.num_steps={NUM_STEPS}",
            "run.dir=run", "data.prompts_per_step=2", "actor.prompts_per_update=2", "evaluation.every=0")  # fmt: skip
TIMINGS = ("timing_s/", "perf/")
TIMEOUT_S = 250.0


@dataclass(frozen=True)
class Submitted:
    """A job that trains in `run_dir`. ray_dir: the nodes' temporary folder."""

    job: Job
    run_dir: Path
    ray_dir: Path

    def ends_with(self, code: int) -> str:
        """The output of the job, which has left nothing on its nodes."""
        assert self.job.wait(TIMEOUT_S) == code, self.job.output
        assert self.job.left() == []
        assert list(self.run_dir.rglob("token")) == []
        assert list(self.ray_dir.iterdir()) == []
        return self.job.output

    @property
    def rows(self) -> list[dict]:
        """metrics.jsonl without times."""
        path = self.run_dir / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [{key: value for key, value in row.items() if not key.startswith(TIMINGS)} for row in rows]


@pytest.fixture(scope="module")
def sbatch(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Submitted]]:
    """Submits a job from a folder that is not the project's. silent: nodes that never start what they are given."""
    jobs: list[Job] = []

    def sbatch(nodes: int, *overrides: str, silent: tuple[str, ...] = (), **variables: str) -> Submitted:
        folder = tmp_path_factory.mktemp("slurm")
        here, ray_dir = folder / "here", Path(tempfile.mkdtemp(prefix="ms-"))  # short: Ray's sockets are in it
        here.mkdir()
        settings = [*workshop.overrides()[1:], *SETTINGS, *overrides]
        arguments = [f"--nodes={nodes}", str(SCRIPT), *OBJECT_STORE, "--", "quickstart", *settings]
        common = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(ray_dir)}
        slurm = Slurm(folder / "slurm", NODES, silent)
        jobs.append(slurm.sbatch(_free_port(), arguments, here, **common, **variables))
        return Submitted(jobs[-1], here / "run", ray_dir)

    yield sbatch
    for job in jobs:
        job.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def undisturbed(sbatch) -> Submitted:
    return sbatch(2)


def test_a_job_trains_on_all_of_its_nodes_and_leaves_nothing(undisturbed):
    output = undisturbed.ends_with(0)
    assert "all 2 nodes are up" in output
    assert len(undisturbed.rows) == NUM_STEPS
    assert (undisturbed.run_dir / "policy" / "config.json").exists()
    (logs,) = (undisturbed.run_dir / "logs" / "slurm").iterdir()
    for name in NODES:
        assert "Ray runtime started" in (logs / name / "node.log").read_text()
        assert (logs / name / "ray" / "raylet.out").stat().st_size > 0
    workers = [(logs / name / "ray").glob("python-core-worker-*") for name in NODES]
    assert all(list(found) for found in workers), "each node has one CPU, and so one of the two workers"


def test_a_job_that_is_interrupted_is_requeued_and_ends_with_the_metrics_of_one_that_is_not(sbatch, undisturbed):
    submitted = sbatch(2)
    end = time.monotonic() + TIMEOUT_S
    while not submitted.rows:
        assert time.monotonic() < end, submitted.job.output
        time.sleep(0.02)
    submitted.job.scancel("--batch", "--signal=TERM")
    output = submitted.ends_with(0)
    assert "the job is requeued, because it was interrupted" in output
    events = [entry["event"] for entry in read_events(submitted.run_dir)]
    assert [name for name in events if name in ("started", "interrupted", "resumed", "finished")] == [
        "started", "interrupted", "resumed", "finished",
    ]  # fmt: skip
    assert submitted.rows == undisturbed.rows
    assert len(list((submitted.run_dir / "logs" / "slurm").iterdir())) == 2


def test_a_failing_training_ends_the_job_with_its_exit_code(sbatch):
    submitted = sbatch(1, "data.train_files=[nowhere.parquet]")
    output = submitted.ends_with(3)
    assert "nowhere.parquet" in output
    assert "requeued" not in output


def test_a_node_that_does_not_join_ends_the_job_with_the_reason(sbatch):
    submitted = sbatch(2, silent=("n2",), MARS_JOIN_TIMEOUT_S="3")
    output = submitted.ends_with(4)
    assert "1 of 2 nodes have joined the Ray cluster" in output
    assert "127.0.0.2, after 3 s" in output
    assert submitted.rows == []
