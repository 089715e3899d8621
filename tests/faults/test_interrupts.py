"""How a real run ends early: by signals, by the loss of Ray's own processes, and by its own death. Nothing stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.run_dir.attempt import recorded_processes
from mars.run_dir.events import read_events
from mars.run_dir.outcome import last_logged_step
from tests.integration.forked import Forked
from tests.integration.workshop import LOCAL, REWARDS, Workshop, start

FEW_SECONDS = 10.0
PLANTED = {name: f"planted-{name}" for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD")}
# A locale without UTF-8, which Python would otherwise replace by itself.
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 200.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


@dataclass
class Running:
    """A run in progress."""

    process: Forked
    run_dir: Path
    ray_dir: Path

    @property
    def tree(self) -> list[psutil.Process]:
        """The run's processes, itself first, as far as they have a name still."""
        driver = psutil.Process(self.process.pid)
        return [driver, *driver.children(recursive=True)]

    def named(self, name: str) -> psutil.Process:
        (found,) = [process for process in self.tree if process.name() == name]
        return found

    @property
    def generates(self) -> bool:
        return any("EngineWorker.generate" in " ".join(process.cmdline()) for process in self.tree)

    def wait_for_a_step(self) -> None:
        metrics = self.run_dir / "metrics.jsonl"
        wait_for(lambda: self.process.wait(0) is not None or (metrics.is_file() and metrics.stat().st_size > 0), "step")
        assert self.process.wait(0) is None, self.stderr

    def wait_for_ray(self) -> None:
        wait_for(lambda: self.process.wait(0) is not None or any(self.ray_dir.iterdir()), "Ray folder")

    @property
    def stderr(self) -> str:
        return self.process.stderr

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def ends_with(self, code: int, processes: list[psutil.Process]) -> str:
        """stderr, after the run has ended with this code and left nothing behind within a few seconds."""
        assert self.process.wait(FEW_SECONDS) == code, self.stderr
        _, alive = psutil.wait_procs(processes, timeout=FEW_SECONDS)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        wait_for(lambda: not any(self.ray_dir.iterdir()), "end of Ray's folder", FEW_SECONDS)
        return self.stderr


@pytest.fixture
def begin(workshop: Workshop, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts a run that goes on for ever, and ends its process group if the test does not."""
    started: list[Running] = []

    def begin(*overrides: str, fresh: bool = False, **environment: str) -> Running:
        folder = tmp_path / str(len(started))
        # Short: Ray's sockets are in it.
        ray_dir = Path("/tmp") / f"mt{os.getpid()}-{len(started)}"
        folder.mkdir()
        ray_dir.mkdir()
        settings = [
            *workshop.overrides(),
            f"run.dir='{folder}/run'",
            "rollout=scripted",
            "run.num_steps=1000000",
            "actor.num_workers=1",
        ]
        command = ["-m", "mars.main", *settings, *overrides]
        process = start(command, folder, folder, fresh=fresh, RAY_TMPDIR=str(ray_dir), **environment)
        started.append(Running(process, folder / "run", ray_dir))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        wait_for(lambda running=running: not any(running.ray_dir.iterdir()), "end of Ray's folder", FEW_SECONDS)
        running.ray_dir.rmdir()


def public_listeners(processes: list[psutil.Process]) -> list[tuple[str, str, int]]:
    """(process, address, port) of sockets that other machines can reach."""
    found = [
        (process.name(), socket.laddr.ip, socket.laddr.port)
        for process in processes
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert found, "Ray listens somewhere"
    return [entry for entry in found if entry[1].removeprefix("::ffff:") not in ("127.0.0.1", "::1")]


def test_a_ray_run_listens_on_loopback_keeps_keys_out_and_ends_on_sigterm(begin):
    """In a locale without UTF-8 too, where libraries open their own files."""
    running = begin(
        "run.name='run of ${oc.env:HF_TOKEN}'", "tracking.to=[console,wandb]", fresh=True, **PLANTED, **ASCII
    )
    running.wait_for_a_step()
    processes = running.tree
    assert public_listeners(processes) == []
    folder = next(running.ray_dir.iterdir())
    assert folder.stat().st_mode & 0o077 == 0, "nobody else can read Ray's sockets, logs and token"
    running.send(signal.SIGTERM)
    stderr = running.ends_with(75, processes)
    assert stderr.splitlines()[-1].startswith("interrupted by SIGTERM; to go on: mars resume ")
    assert "Traceback" not in stderr
    assert "SIGTERM received" not in stderr
    last = last_logged_step(running.run_dir)
    saved = Catalogue(running.run_dir / CHECKPOINTS_FOLDER).newest().manifest.step
    assert saved in (last, last + 1), "the step's row may be in the checkpoint and not yet among the metrics"
    (record,) = (running.run_dir / "wandb").glob("offline-run-*")
    assert record.name.endswith("-" + (running.run_dir / "wandb" / "run_id").read_text().strip())
    written = [path for path in running.run_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"mars.log", "config.yaml", "raylet.out"} <= {path.name for path in written}
    for path in (*written, running.run_dir.parent / "stderr", running.run_dir.parent / "stdout"):
        content = path.read_bytes()
        assert [name for name, value in PLANTED.items() if value.encode() in content] == [], path
    assert (running.run_dir / "logs").stat().st_mode & 0o077 == 0
    assert (running.run_dir / "mars.log").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_loss_of_a_process_of_ray_is_a_lost_worker(begin, name, tmp_path):
    """While the driver waits for rewards: during a call of Ray, Ray's own code may end the driver first."""
    hanging = tmp_path / "hanging"
    running = begin(f"reward.function='{REWARDS}:hangs'", "reward.timeout_s=600", HANGING=str(hanging))
    wait_for(hanging.exists, "answer that hangs")
    wait_for(lambda: not running.generates, "end of the generation")
    processes = running.tree
    running.named(name).kill()
    last = running.ends_with(5, processes).splitlines()[-1]
    assert last.startswith(f"cluster: Ray's process {name} (")
    assert "killed by SIGKILL" in last
    assert last.endswith(f"; to go on: mars resume {running.run_dir}")
    assert f"the process ends: {last}" in (running.run_dir / "mars.log").read_text()
    end = read_events(running.run_dir)[-1]
    assert (end["event"], end["details"]["exit_code"]) == ("failed", 5)


def test_a_run_without_progress_ends_with_the_stacks_of_its_processes(begin):
    running = begin(f"reward.function='{REWARDS}:hangs'", "reward.timeout_s=600", "cluster.watchdog_s=5")
    attempt = running.run_dir / "logs" / "attempt_1"
    wait_for(lambda: any(name == "raylet" for _, name in recorded_processes(attempt)), "record of the processes")
    processes = running.tree
    running.process.finish(FEW_SECONDS + 60)
    stderr = running.ends_with(8, processes)
    assert "no progress for 5 s (cluster.watchdog_s)" in stderr
    assert "in score_stream" in (attempt / "stacks.txt").read_text()
    for worker in ("engine-0", "actor-0"):
        assert 'default_worker.py", line' in (attempt / f"{worker}.stacks.txt").read_text()
    assert read_events(running.run_dir)[-1]["event"] == "stalled"


def test_the_death_of_the_driver_leaves_nothing(begin):
    running = begin()
    running.wait_for_a_step()
    processes = running.tree
    running.send(signal.SIGKILL)
    running.ends_with(-signal.SIGKILL, processes)
    assert list((running.run_dir / "logs" / "attempt_1" / "ray").iterdir()), "Ray's logs are kept"


def test_a_signal_while_ray_starts_ends_the_run(begin):
    running = begin()
    running.wait_for_ray()
    running.send(signal.SIGHUP)
    stderr = running.ends_with(75, running.tree[1:])
    assert "interrupted by SIGHUP" in stderr
    assert not (running.run_dir / "metrics.jsonl").exists(), "no step was made"


def test_a_local_run_ends_on_ctrl_c_and_a_second_signal_ends_at_once(begin):
    running, twice = (begin(*LOCAL, "rollout=hf") for _ in range(2))
    running.wait_for_a_step()
    processes = running.tree
    running.send(signal.SIGINT)
    assert "interrupted by SIGINT" in running.ends_with(75, processes)
    twice.wait_for_a_step()
    processes = twice.tree
    twice.send(signal.SIGTERM)
    twice.send(signal.SIGINT)
    assert twice.process.wait(FEW_SECONDS) in (130, 75), "75 if it ended before the second signal"
    twice.ends_with(twice.process.wait(0), processes)
