"""Small trainings on a Ray cluster of several nodes, which stop at a step so that a test can take a node away."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from mars.run_dir.events import read_events
from mars.run_dir.processes import recorded_workers
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from tests.clusters.ray_nodes import NodeSpec, RayNode, RayNodes
from tests.integration.workshop import Workshop, start

_WAIT_S = 240.0
SMALL = ("rollout=hf", "data.prompts_per_step=2", "actor.prompts_per_update=2", "rollout.samples_per_prompt=2",
         "rollout.max_response_tokens=8", "checkpoint.every=2", "data.eval_files=[]", "actor.num_workers=1",
         "rollout.num_workers=1")  # fmt: skip
# One worker fills a node of one CPU, so that each is on a node of its own.
ON_NODES = ("cluster.cpus_per_worker=1", "cluster.object_store_bytes=80000000", "cluster.call_timeout_s=100")
# The head has no room for workers, and knows within two seconds that a node was killed; by default after 13.
HEAD = NodeSpec(
    num_cpus=0,
    environment={
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    },
)
_UNCOMPARED = ("timing_s/", "perf/", "fault/")


class Run:
    """A training in a process of its own, on the cluster `nodes`, or in one process if that is None.

    stops: the process stops itself (SIGSTOP) after these steps; `until_stopped` and `go_on` are for that.
    """

    def __init__(
        self, workshop: Workshop, run_dir: Path, nodes: RayNodes | None, *overrides: str, stops: tuple[int, ...] = ()
    ) -> None:
        self.run_dir, self.nodes = run_dir, nodes
        output = run_dir.with_name(f"{run_dir.name}.output")
        output.mkdir(exist_ok=True, parents=True)
        where = ("cluster=local",) if nodes is None else (f"cluster.address={nodes.address}", *ON_NODES)
        environment = {} if nodes is None else dict(nodes.environment)
        if stops:
            environment["MARS_FAULT"] = ",".join(f"step.logged:stop@{step}" for step in stops)
        arguments = ["-m", "mars.main", *workshop.overrides(), *SMALL, *where, f"run.dir='{run_dir}'", *overrides]
        self._process = start(arguments, run_dir.parent, output, **environment)

    def until_stopped(self) -> None:
        assert self._process.wait(_WAIT_S) is None, self.stderr[-3000:]
        state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "T", f"the run has not stopped:\n{self.stderr[-3000:]}"

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + _WAIT_S
        while not happened():
            assert self._process.wait(0.1) is None, self.stderr[-3000:]
            assert time.monotonic() < end, f"{self.events()}\n{self.stderr[-3000:]}"

    def end(self) -> None:
        os.kill(self._process.pid, signal.SIGTERM)

    def exit_code(self) -> int:
        return self._process.finish(_WAIT_S)

    def kill(self) -> None:
        self._process.kill()

    @property
    def stderr(self) -> str:
        return self._process.stderr

    def events(self, name: str = "", worker: str | None = None) -> list[dict]:
        entries = read_events(self.run_dir)
        found = [entry for entry in entries if name in ("", entry["event"])]
        return found if worker is None else [entry for entry in found if entry["details"].get("worker") == worker]

    def node_of(self, worker: str, attempt: int = 1) -> RayNode:
        """The node on which the newest process of a worker runs."""
        assert self.nodes is not None
        processes = [p for p, name in recorded_workers(self.run_dir / "logs" / f"attempt_{attempt}") if name == worker]
        (node,) = (node for node in self.nodes.nodes if processes[-1].pid in node.pids())
        return node

    def workers_alive(self, within_s: float, attempt: int = 1) -> list[str]:
        """The workers that have not ended after so many seconds: Ray ends them when it knows that the driver has."""
        recorded = recorded_workers(self.run_dir / "logs" / f"attempt_{attempt}")
        end = time.monotonic() + within_s
        while (alive := [name for process, name in recorded if process.is_alive()]) and time.monotonic() < end:
            time.sleep(0.2)
        return alive


def rows(run_dir: Path) -> list[dict[str, float]]:
    """Its metrics but for times and faults."""
    found = read_metrics(run_dir / METRICS_FILE).rows
    return [{key: value for key, value in row.items() if not key.startswith(_UNCOMPARED)} for row in found]


def policy(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "policy" / "model.safetensors").read_bytes()).hexdigest()
