"""A Slurm of one machine: the commands sbatch, srun, scontrol and scancel, as far as scripts/slurm.sh uses them.

    slurm = Slurm(folder, {"n1": "127.0.0.2", "n2": "127.0.0.3"})
    job = slurm.sbatch("scripts/slurm.sh", "--nodes=2", "--", "quickstart", cwd=folder)
    job.wait()

The commands behave as Slurm's manual pages say: sbatch runs a copy of the script on the first node, srun passes signals
on to its task, scancel --batch signals the script alone, scancel ends job steps and script, and scontrol requeue ends
the job and starts it again with SLURM_RESTART_COUNT. Nodes are names for addresses of this machine.

A node in `silent` takes job steps and never runs them. This file is also the program behind the commands.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_COMMANDS = ("sbatch", "srun", "scontrol", "scancel")
_FOLDER = "SLURM_STUB"
_POLL_S = 0.05
_END_S = 20.0


class Slurm:
    """nodes: name -> address. silent: nodes that accept a job step and do nothing. gpus: of each node."""

    def __init__(self, folder: Path, nodes: Mapping[str, str], silent: Sequence[str] = (), gpus: int = 0) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "slurm.json").write_text(
            json.dumps({"nodes": dict(nodes), "silent": list(silent), "gpus": str(gpus)})
        )
        for name in _COMMANDS:
            command = folder / "bin" / name
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" {name} "$@"\n')
            command.chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, _FOLDER: str(self.folder), **variables}

    def sbatch(self, job_id: int, arguments: Sequence[str], cwd: Path, **variables: str) -> Job:
        command = [str(self.folder / "bin" / "sbatch"), f"--stub-id={job_id}", *arguments]
        subprocess.run(command, cwd=cwd, env=self.environment(**variables), check=True, capture_output=True, text=True)
        return Job(self, job_id, cwd)


class Job:
    """A job that was submitted."""

    def __init__(self, slurm: Slurm, job_id: int, cwd: Path) -> None:
        self.slurm, self.job_id, self.cwd = slurm, job_id, cwd
        self.folder = slurm.folder / str(job_id)

    @property
    def output(self) -> str:
        path = self.cwd / f"slurm-{self.job_id}.out"
        return path.read_text() if path.exists() else ""

    def scancel(self, *options: str) -> None:
        command = [str(self.slurm.folder / "bin" / "scancel"), *options, str(self.job_id)]
        subprocess.run(command, env=self.slurm.environment(), check=True)

    @property
    def exit_code(self) -> int | None:
        path = self.folder / "exit_code"
        return int(path.read_text()) if path.exists() else None

    def wait(self, timeout_s: float) -> int:
        """The exit code of the job's last start."""
        end = time.monotonic() + timeout_s
        while self.exit_code is None:
            if time.monotonic() > end:
                raise TimeoutError(f"the job has not ended after {timeout_s} s:\n{self.output}")
            time.sleep(_POLL_S)
        return self.exit_code

    def left(self) -> list[str]:
        """Command lines of processes that a start of the job has left on the nodes, as Slurm found them at its end."""
        return (self.folder / "left").read_text().splitlines()

    def processes(self) -> list[int]:
        return _processes(self.folder)

    def close(self) -> None:
        """End the job if it still runs."""
        (self.folder / "closed").touch()
        end = time.monotonic() + _END_S
        while pids := self.processes():
            assert time.monotonic() < end, pids
            _signal(pids, signal.SIGKILL)
            time.sleep(_POLL_S)


# What follows runs as one of Slurm's commands.


def _sbatch(arguments: list[str], slurm: Path) -> int:
    options, (script, *rest) = _split(arguments)
    for line in Path(script).read_text().splitlines():
        if line.startswith("#SBATCH "):
            name, _, value = line.removeprefix("#SBATCH ").removeprefix("--").partition("=")
            options.setdefault(name, value)
    job_id = options["stub-id"]
    folder = slurm / job_id
    folder.mkdir()
    shutil.copy(script, folder / "slurm_script")
    (folder / "job.json").write_text(json.dumps({"options": options, "script": os.path.abspath(script), "args": rest}))
    (folder / "left").touch()
    (folder / "sessions").mkdir()
    with open(f"slurm-{job_id}.out", "ab") as output:
        subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, "controller", job_id],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    sys.stdout.write(f"Submitted batch job {job_id}\n")
    return 0


def _controller(arguments: list[str], slurm: Path) -> int:
    """What Slurm itself does: start the batch script, and start it again if it is requeued."""
    (job_id,) = arguments
    folder, job = slurm / job_id, json.loads((slurm / job_id / "job.json").read_text())
    nodes = list(json.loads((slurm / "slurm.json").read_text())["nodes"])[: int(job["options"].get("nodes", 1))]
    restarts = 0
    while True:
        environment = {
            **os.environ,
            "SLURM_JOB_ID": job_id,
            "SLURM_JOB_NAME": job["options"].get("job-name", "slurm_script"),
            "SLURM_JOB_NODELIST": ",".join(nodes),
            "SLURM_JOB_NUM_NODES": str(len(nodes)),
            "SLURM_NTASKS_PER_NODE": job["options"].get("ntasks-per-node", ""),
            "SLURM_SUBMIT_DIR": os.getcwd(),
            "SLURMD_NODENAME": nodes[0],
            "STUB_JOB": str(folder),
        }
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        (folder / "state").write_text("RUNNING")
        batch = subprocess.Popen(
            ["bash", str(folder / "slurm_script"), *job["args"]],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        (folder / "batch").write_text(str(batch.pid))
        (folder / "sessions" / str(batch.pid)).touch()
        code = batch.wait()
        (folder / "state").write_text("COMPLETING")
        with (folder / "left").open("a") as left:
            for pid in _processes(folder):
                left.write(f"{pid} {_command_line(pid)}\n")
                _signal([pid], signal.SIGKILL)
        if not (folder / "requeue").exists() or (folder / "closed").exists():
            break
        (folder / "requeue").unlink()
        restarts += 1
    (folder / "exit_code.new").write_text(str(code))
    (folder / "exit_code.new").rename(folder / "exit_code")
    return 0


def _srun(arguments: list[str], slurm: Path) -> int:
    """Runs one task on one node."""
    options, command = _split(arguments)
    assert options["nodes"] == options["ntasks"] == options["ntasks-per-node"] == "1", options
    node, described = options["nodelist"], json.loads((slurm / "slurm.json").read_text())
    assert node in os.environ["SLURM_JOB_NODELIST"].split(",")
    if node in described["silent"]:
        command = ["sleep", "1000000"]
    environment = {
        **os.environ,
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_NNODES": "1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURMD_NODENAME": node,
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_GPUS_ON_NODE": described["gpus"],
    }
    with open(options["output"], "wb") as output:
        task = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    (slurm / os.environ["SLURM_JOB_ID"] / "sessions" / str(task.pid)).touch()
    for number in (signal.SIGTERM, signal.SIGINT):  # a job step's signals go to all of its processes
        signal.signal(number, lambda number, frame: _signal(_session(task.pid), number))
    code = task.wait()
    return code if code >= 0 else 128 - code


def _scontrol(arguments: list[str], slurm: Path) -> int:
    match arguments:
        case ["show", "hostnames", names]:
            sys.stdout.write("".join(f"{name}\n" for name in names.split(",")))
        case ["show", "node", name]:
            address = json.loads((slurm / "slurm.json").read_text())["nodes"][name]
            sys.stdout.write(f"NodeName={name} Arch=x86_64\n   NodeAddr={address} NodeHostName={name} Version=24.11\n")
        case ["show", "job", job_id]:
            job = json.loads((slurm / job_id / "job.json").read_text())
            state = (slurm / job_id / "state").read_text()
            command = " ".join([job["script"], *job["args"]])
            sys.stdout.write(f"JobId={job_id} JobName=mars\n   JobState={state} Reason=None\n   Command={command}\n")
        case ["requeue", job_id]:
            if "no-requeue" in json.loads((slurm / job_id / "job.json").read_text())["options"]:
                sys.stderr.write("Requested operation is presently disabled for job\n")
                return 1
            (slurm / job_id / "requeue").touch()
            (slurm / job_id / "state").write_text("COMPLETING")
            os.kill(int((slurm / job_id / "batch").read_text()), signal.SIGTERM)
        case _:
            raise SystemExit(f"scontrol: not in this stub: {arguments}")
    return 0


def _scancel(arguments: list[str], slurm: Path) -> int:
    options, (job_id,) = _split(arguments)
    folder = slurm / job_id
    batch = int((folder / "batch").read_text())
    if "batch" in options:
        os.kill(batch, getattr(signal, f"SIG{options['signal']}"))
        return 0
    assert "signal" not in options
    (folder / "state").write_text("COMPLETING")
    _signal([pid for pid in _processes(folder) if os.getsid(pid) != os.getsid(batch)], signal.SIGTERM)
    _signal([batch], signal.SIGTERM)
    return 0


def _split(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options of the form --name or --name=value, and what follows them."""
    options: dict[str, str] = {}
    for index, text in enumerate(arguments):
        if not text.startswith("--"):
            return options, arguments[index:]
        name, _, value = text.removeprefix("--").partition("=")
        options[name] = value
    return options, []


def _processes(folder: Path) -> list[int]:
    """Those of the job: in a session that Slurm has started for it, or with its mark in the environment."""
    sessions = {int(path.name) for path in (folder / "sessions").iterdir()}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            marked = f"STUB_JOB={folder}".encode() in (entry / "environ").read_bytes().split(b"\0")
            if (marked or os.getsid(int(entry.name)) in sessions) and "Z" not in _state(entry):
                found.append(int(entry.name))
    return found


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return re.sub(r"\s+", " ", Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return ""


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


if __name__ == "__main__":
    run = {"sbatch": _sbatch, "srun": _srun, "scontrol": _scontrol, "scancel": _scancel, "controller": _controller}
    sys.exit(run[sys.argv[1]](sys.argv[2:], Path(os.environ[_FOLDER])))
