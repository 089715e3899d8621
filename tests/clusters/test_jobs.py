"""From nothing to a finished run with scripts/ray_up.sh and scripts/ray_submit.sh, on a cluster of two nodes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 280.0
UNCOMPARED = ("timing_s/", "perf/")
SECRET = "MARS_TEST_API_KEY"
# The reward imports a file of its folder, notes that it has the variable, and waits at a gate: while the file `gate`
# has the number n, no answer is scored once the run has n steps.
REWARD = """
import hashlib, os, time
from pathlib import Path
from helper import number

FOLDER = Path({folder!r})

def score(data_source, solution_str, ground_truth, extra_info=None):
    (FOLDER / "seen").write_text(hashlib.sha256(os.environ.get({secret!r}, "").encode()).hexdigest())
    while (FOLDER / "gate").exists() and steps() >= int((FOLDER / "gate").read_text()):
        time.sleep(0.05)
    return number(solution_str)

def steps():
    metrics = FOLDER / "run" / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0
"""
HELPER = "def number(text):\n    return (sum(map(ord, text)) % 7) / 6\n"


def script(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(ROOT / "scripts" / name), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MARS_PYTHON": sys.executable, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nothing on this machine uses."""
    for _ in range(200):
        first = 20000 + secrets.randbelow(10000)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + number):
                stack.enter_context(socket.socket()).bind(("", port))
            return first
    raise RuntimeError("no free ports")


@dataclass(frozen=True)
class Cluster:
    """folder: of both nodes' files and the token. server: of jobs. head: its address."""

    folder: Path
    head: str
    server: str

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return finished(script("ray_up.sh", *arguments, cwd=self.folder, **self.environment))

    def node(self, number: int) -> list[str]:
        """Options of a node. Both have an address of the loopback interface."""
        first = free_ports(40)
        options = {
            "node-ip": f"127.0.0.{2 + number}",
            "node-ports": first,
            "worker-ports": f"{first + 10}-{first + 39}",
            "temp-dir": self.folder / str(number),
            "object-store": 80 * 2**20,
            "num-cpus": 1,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def submit(self, *words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
        return script("ray_submit.sh", "--address", self.server, *words, cwd=cwd, **self.environment, **environment)

    def jobs(self) -> str:
        """What the job server tells about all jobs."""
        token = (self.folder / "token").read_text()
        with urlopen(Request(f"{self.server}/api/jobs/", headers={"Authorization": f"Bearer {token}"})) as answer:
            return answer.read().decode()

    def processes(self) -> list[int]:
        mark = f"RAY_AUTH_TOKEN_PATH={self.folder / 'token'}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Short: Ray's sockets are in it.
    folder = Path(tempfile.mkdtemp(prefix="mj-"))
    port = free_ports(2)
    cluster = Cluster(folder, f"127.0.0.2:{port}", f"http://127.0.0.1:{port + 1}")
    try:
        yield cluster
    finally:
        for pid in cluster.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_two_nodes_come_up(cluster):
    port, dashboard = (address.rpartition(":")[2] for address in (cluster.head, cluster.server))
    head = cluster.up("head", "--port", port, "--dashboard-port", dashboard, *cluster.node(0))
    assert head.returncode == 0, head.stderr
    assert f"bash scripts/ray_up.sh worker {cluster.head}" in head.stdout, "it prints the next command"
    assert (cluster.folder / "token").stat().st_mode & 0o777 == 0o600
    token = (cluster.folder / "token").read_text()
    other = cluster.folder / "other"
    other.touch(mode=0o600)
    other.write_text("0" * len(token))
    for environment, said in (
        ({"RAY_AUTH_TOKEN_PATH": str(other)}, "the token"),
        ({"PYTHONPATH": str(changed_code(cluster.folder))}, "code: "),
    ):
        command = script(
            "ray_up.sh",
            "worker",
            cluster.head,
            *cluster.node(1),
            cwd=cluster.folder,
            **{**cluster.environment, **environment},
        )
        refused = finished(command)
        assert refused.returncode == 4, refused.stdout
        assert said in refused.stderr
    worker = cluster.up("worker", cluster.head, *cluster.node(1))
    assert worker.returncode == 0, worker.stderr


def changed_code(folder: Path) -> Path:
    """A copy of mars with a changed file."""
    copy = folder / "copy"
    shutil.copytree(ROOT / "mars", copy / "mars", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", copy / "configs")
    (copy / "mars" / "step.py").write_text("# changed\n")
    return copy


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """The folder of a user's project."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_reward.py").write_text(REWARD.format(folder=str(folder), secret=SECRET))
    (folder / "helper.py").write_text(HELPER)
    return folder


def settings(workshop, *more: str) -> list[str]:
    replaced = ("reward.", "run.num_steps", "experiment=")
    given = [text for text in workshop.overrides() if not text.startswith(replaced)]
    return [*given, "rollout=hf", "run.num_steps=6", "checkpoint.every=2", "actor.num_workers=1",
            "reward.num_workers=1", "reward.timeout_s=200", "cluster.cpus_per_worker=1", *more]  # fmt: skip


def lines_until(stream, wanted: str) -> str:
    for line in stream:
        if wanted in line:
            return line
    raise AssertionError(f"the output has ended without {wanted!r}")


def driver_of(run_dir: Path) -> int:
    attempts = sorted((run_dir / "logs").glob("attempt_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    return json.loads((attempts[-1] / "attempt.json").read_text())["process"]["pid"]


def compared(run_dir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(UNCOMPARED)} for row in rows]


def policy_hash(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "policy" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.timeout(900)  # five runs
def test_a_run_is_stopped_killed_resumed_and_equal_to_one_on_one_node(cluster, user, workshop):
    run_dir, gate, secret = user / "run", user / "gate", secrets.token_hex(16)
    passed_on = {SECRET: secret}
    gate.write_text("3")
    job = cluster.submit("--env", SECRET, "--", "quickstart", *settings(workshop), "run.dir=run",
                         "reward.function=my_reward.py:score", cwd=user, **passed_on)  # fmt: skip
    lines_until(job.stdout, "3/6")
    job.send_signal(signal.SIGINT)
    stopped = finished(job)
    assert stopped.returncode == 75, stopped.stderr
    assert f"--resume {run_dir}" in stopped.stderr, "it names the run's directory and how to go on"
    assert (run_dir / "checkpoints" / "step_000003").is_dir(), "the state was saved"

    gate.write_text("5")
    resumed = finished(cluster.submit("--no-wait", "--env", SECRET, "--resume", "run", cwd=user, **passed_on))
    assert resumed.returncode == 0, resumed.stderr
    job_id = resumed.stdout.split()[0]
    followed = cluster.submit("--follow", job_id, cwd=user)
    lines_until(followed.stdout, "5/6")
    os.kill(driver_of(run_dir), signal.SIGKILL)
    assert finished(followed).returncode == 128 + signal.SIGKILL

    assert (user / "seen").read_text() == hashlib.sha256(secret.encode()).hexdigest(), "the variable was passed on"
    gate.unlink()
    ended = finished(cluster.submit("--env", SECRET, "--resume", str(run_dir), cwd=user, **passed_on))
    assert ended.returncode == 0, ended.stderr

    reference = user / "reference"
    one_node = workshop.train(reference, *settings(workshop), f"reward.function={user}/my_reward.py:score")
    assert one_node.returncode == 0, one_node.stderr
    assert compared(run_dir) == compared(reference)
    assert policy_hash(run_dir) == policy_hash(reference)

    assert (user / "seen").read_text() == hashlib.sha256(b"").hexdigest(), "the reference had no such variable"
    assert secret not in cluster.jobs()
    assert job_id in cluster.jobs()
    assert files_with(cluster.folder, secret) == []


def files_with(folder: Path, text: str) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path)
    return found


@pytest.mark.parametrize(("more", "code", "said"), [
    ("data.train_files=[missing.parquet]", 3, "missing.parquet"),
    ("rollout.top_p=7", 2, "rollout.top_p"),
])  # fmt: skip
def test_a_failing_run_passes_its_exit_code_on(cluster, user, workshop, more, code, said):
    given = [*settings(workshop), "run.dir=failing", "reward.function=my_reward.py:score", more]
    ended = finished(cluster.submit("--", "quickstart", *given, cwd=user))
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr
    assert ("Running entrypoint" in ended.stdout) is (code != 2), "a wrong setting is found before anything is sent"


def test_stop_ends_the_nodes_and_nothing_else(cluster):
    assert cluster.processes()
    for number in (1, 0):
        stopped = cluster.up("stop", "--temp-dir", str(cluster.folder / str(number)))
        assert stopped.returncode == 0, stopped.stderr
        assert re.search(r"stopped .* of the cluster at 127\.0\.0\.2:", stopped.stdout)
    end = time.monotonic() + 20
    while (left := cluster.processes()) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
