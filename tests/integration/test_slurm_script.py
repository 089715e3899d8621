"""scripts/slurm.sh on a stand-in for Slurm, with a stand-in for Python: what is started where, and how a job ends.

tests/clusters/test_slurm.py has jobs with real Ray nodes and real training.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import pytest

from mars.config.command_line import parse_command_line
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from tests.fakes.slurm import Job, Slurm

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "slurm.sh"
NODES = {"n1": "127.0.0.2", "n2": "127.0.0.3"}
SECONDS = 30.0
# A Ray node only waits, and training is the shell commands $TRAINING. BROKEN: a node that does not start.
# WAITING: at the first start the Ray nodes do not get ready. LOST: exit code of the question at the end whether all are
# there.
PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
'-c import mars'*) exit 0 ;;
'-m mars.cli.main')
    [ "$SLURMD_NODENAME" != "${{BROKEN:-}}" ] || exit 2
    printf '%s\\0' "$@" >"$RECORD/$SLURMD_NODENAME.$SLURM_JOB_ID"
    exec sleep 1000000
    ;;
'-m mars.cluster.wait_for_nodes')
    [ "$5" != 0 ] || exit "${{LOST:-0}}"
    [ -z "${{WAITING:-}}" ] || [ -n "${{SLURM_RESTART_COUNT:-}}" ] || exec sleep 1000000
    until [ "$4" = 1 -a -e "$RECORD/n1.$SLURM_JOB_ID" ] || [ -e "$RECORD/n2.$SLURM_JOB_ID" ]; do :; done
    ;;
'-m mars.main')
    shift 2
    printf '%s\\0' "$PWD" "$RAY_AUTH_TOKEN_PATH" "$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" "$@" \\
        >"$RECORD/main.${{SLURM_RESTART_COUNT:-0}}"
    eval "$TRAINING"
    ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""
UNTIL_TERM = 'trap "exit 75" TERM; touch "$RECORD/training"; while :; do sleep 0.05; done'
SAVED = "mkdir -p run/checkpoints; touch run/checkpoints/LATEST"


@dataclass(frozen=True)
class Submitted:
    job: Job
    here: Path
    record: Path

    def recorded(self, name: str) -> list[str]:
        return (self.record / name).read_text().split("\0")[:-1]

    def overrides(self, start: int = 0) -> list[str]:
        """Arguments of `python -m mars.main` at a start of the job."""
        return self.recorded(f"main.{start}")[3:]

    def config(self, start: int = 0) -> TrainConfig:
        line = parse_command_line("train", "mars", self.overrides(start))
        return load_config("train", line.overrides, line.config_dirs)

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + SECONDS
        while not (self.record / name).exists():
            assert time.monotonic() < end, self.job.output
            time.sleep(0.02)

    def ends_with(self, code: int, starts: int = 1) -> str:
        """The output of the job, which has left nothing behind."""
        assert self.job.wait(SECONDS) == code, self.job.output
        assert self.job.left() == []
        assert len(list(self.record.glob("main.*"))) == starts, self.job.output
        assert list(self.here.rglob("token")) == []
        return self.job.output


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[..., Submitted]]:
    """sbatch [options] scripts/slurm.sh [arguments], from a folder that is not the project's, on two nodes."""
    here, record, jobs, ids = tmp_path / "my project", tmp_path / "record", [], count(4000)
    slurm = Slurm(tmp_path / "slurm", NODES, gpus=4)
    here.mkdir()
    record.mkdir()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def submit(*arguments: str, options=(), script: Path = SCRIPT, training: str = "exit 0", **variables) -> Submitted:
        common = {"MARS_PYTHON": str(python), "RECORD": str(record), "TRAINING": training, "PYTHONPATH": str(ROOT)}
        job = slurm.sbatch(next(ids), ["--nodes=2", *options, str(script), *arguments], here, **common, **variables)
        jobs.append(job)
        return Submitted(job, here, record)

    yield submit
    for job in jobs:
        job.close()


def test_the_settings_reach_training_and_every_node_its_share(submit):
    settings = ("data.train_files=[a b.parquet, ./$c.parquet]", "run.name='x y'", "run.dir=run one")
    done = submit("--object-store", "1000", "--", "quickstart", *settings, training="exit 3")
    output = done.ends_with(3)
    cwd, token, mode, *_ = done.recorded("main.0")
    run_dir = done.here / "run one"
    assert (cwd, mode) == (str(done.here), "600")
    assert Path(token).is_relative_to(run_dir)
    config = done.config()
    assert (config.data.train_files, config.run.name) == (["a b.parquet", "./$c.parquet"], "x y")
    assert (config.run.dir, config.run.resume) == (str(run_dir), False)
    assert config.run.num_steps == 60, "experiment=quickstart"
    host, _, port = config.cluster.address.partition(":")
    assert host == NODES["n1"]
    head, worker = (done.recorded(f"{name}.{done.job.job_id}") for name in ("n1", "n2"))
    assert head[2:4] == ["ray", "head"]
    assert worker[2:5] == ["ray", "worker", config.cluster.address]
    assert head[head.index("--port") + 1] == port
    for name, arguments in (("n1", head), ("n2", worker)):
        shown = dict(pairwise(arguments))
        assert "--block" in arguments
        assert (shown["--node-ip"], shown["--num-gpus"], shown["--num-cpus"]) == (NODES[name], "4", "1")
        assert shown["--object-store"] == "1000"
        assert (Path(token).parent / name / "node.log").exists()
    assert "exit code 3" in output


def test_two_jobs_on_one_node_have_other_ports(submit):
    jobs = []
    for _ in range(2):
        jobs.append(submit("--", "quickstart"))
        assert jobs[-1].job.wait(SECONDS) == 0
        default = jobs[-1].here / "runs" / f"mars-{jobs[-1].job.job_id}"
        assert jobs[-1].config().run.dir == str(default), "the default"
    ports = [int(job.recorded(f"n1.{job.job.job_id}")[5]) for job in jobs]
    assert abs(ports[0] - ports[1]) >= 1000


def test_a_job_that_is_interrupted_saves_and_resumes(submit):
    done = submit("--", "quickstart", "run.dir=run", training=f"[ -z $SLURM_RESTART_COUNT ] || exit 0; {UNTIL_TERM}")
    done.wait_for("training")
    done.job.scancel("--batch", "--signal=TERM")
    output = done.ends_with(0, starts=2)
    assert "requeued, because it was interrupted" in output
    assert (done.config(0).run.resume, done.config(1).run.resume) == (False, True)
    assert done.config(0).run.dir == done.config(1).run.dir


def test_a_job_that_is_interrupted_before_training_starts_again(submit):
    done = submit("--", "quickstart", "run.dir=run", WAITING="yes")
    done.wait_for(f"n1.{done.job.job_id}")
    done.job.scancel("--batch", "--signal=TERM")
    assert "requeued" in done.ends_with(0)
    assert done.config(1).run.resume


@pytest.mark.parametrize(
    ("options", "cancel"),
    [([], ["--batch", "--signal=INT"]), (["--no-requeue"], ["--batch", "--signal=TERM"]), ([], [])],
    ids=["asked to stop", "may not be requeued", "cancelled"],
)
def test_a_job_does_not_come_back(submit, options, cancel):
    done = submit("--", "quickstart", options=options, training=UNTIL_TERM)
    done.wait_for("training")
    done.job.scancel(*cancel)
    output = done.ends_with(75)
    assert ("call sbatch again with run.resume=true" in output) == bool(options)


@pytest.mark.parametrize(
    ("training", "lost", "starts"),
    [(f"{SAVED}; exit 5", "4", 2), ("exit 5", "4", 1), (f"{SAVED}; exit 5", "0", 1), (f"{SAVED}; exit 6", "4", 1)],
    ids=["node lost", "node lost without progress", "no node lost", "another error"],
)
def test_a_job_that_loses_a_node_comes_back_if_it_had_made_progress(submit, training, lost, starts):
    done = submit(
        "--", "quickstart", "run.dir=run", training=f"[ -z $SLURM_RESTART_COUNT ] || exit 0; {training}", LOST=lost
    )
    output = done.ends_with(int(training[-1]) if starts == 1 else 0, starts)
    assert ("requeued, because it has lost a node" in output) == (starts == 2)


@pytest.mark.parametrize("name", NODES)
def test_a_node_that_does_not_start_ends_the_job_with_its_name_and_log(submit, name):
    done = submit("--", "quickstart", "run.dir=run", BROKEN=name)
    output = done.ends_with(4, starts=0)
    assert f"no Ray node on {name}; its log is {done.here}/run/logs/slurm/{done.job.job_id}.0/{name}/node.log" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-- and an experiment or settings are missing"),
        (["quickstart"], "-- and an experiment or settings are missing"),
        (["--", "quickstart", "run.dir=runs/${run.name}"], "run.dir: must be a plain path; got runs/${run.name}"),
    ],
)
def test_wrong_arguments_end_the_job(submit, arguments, message):
    assert message in submit(*arguments).ends_with(2, starts=0)


def test_a_copy_of_the_script_is_refused(submit, tmp_path):
    (tmp_path / "slurm.sh").write_bytes(SCRIPT.read_bytes())
    done = submit("--", "quickstart", script=tmp_path / "slurm.sh")
    assert "call scripts/slurm.sh by its path" in done.ends_with(2, starts=0)


def test_the_usage_and_a_call_without_slurm():
    shown = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("usage: sbatch ")
    refused = subprocess.run(["bash", SCRIPT, "--", "quickstart"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "start it with sbatch" in refused.stderr


def test_waiting_for_nodes_ends_with_the_reason(capsys, monkeypatch):
    from mars.cluster import wait_for_nodes

    with socket.socket() as silent:  # bound, and not listening
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert wait_for_nodes.main([address, "1", "0"]) == 4
    assert capsys.readouterr().err.startswith(f"no Ray cluster answers at {address} (")
    monkeypatch.setattr(wait_for_nodes, "alive_nodes", lambda address: ["10.0.0.1", "10.0.0.2"])
    assert wait_for_nodes.main(["10.0.0.1:6379", "2", "0"]) == 0
    assert wait_for_nodes.main(["10.0.0.1:6379", "3", "0"]) == 4
    message = "2 of 3 nodes have joined the Ray cluster at 10.0.0.1:6379: 10.0.0.1, 10.0.0.2, after 0 s"
    assert capsys.readouterr().err.strip() == message
