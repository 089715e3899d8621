"""What the pods of examples/kubernetes do, as far as one machine can: the commands of KubeRay's containers, the
submission of the entrypoint, and the hook before a pod ends. All in a process namespace: the hook reads all of /proc.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from mars.run_dir.events import read_events
from tests.integration.test_kubernetes_hook import HOOK, POD, no_process_namespaces
from tests.integration.workshop import ROOT, Workshop

JOB = yaml.safe_load((ROOT / "examples" / "kubernetes" / "rayjob.yaml").read_text().partition("\n---\n")[0])
PROGRAM = shlex.join(shlex.split(JOB["spec"]["entrypoint"])[:4])
NUM_STEPS = 6
TIMEOUT_S = 560
SETTINGS = ("experiment=quickstart", "rollout=hf", "actor.num_workers=1", f"run.num_steps={NUM_STEPS}",
            "data.prompts_per_step=2", "actor.prompts_per_update=2", "evaluation.every=0", "cluster.address=auto",
            "run.resume=true")  # fmt: skip
# KubeRay starts a node with `ray start` and rayStartParams, and a job with `ray job submit -- ENTRYPOINT` in a shell.
PODS = """
set -eu
cd "$FOLDER"
ray() { python -m ray.scripts.scripts "$@"; }
common="--block --object-store-memory=83886080 --include-log-monitor=false"
ray start --head $common $HEAD_PARAMS --port=$1 --dashboard-port=$2 --ray-client-server-port=$3 \
    --dashboard-agent-listen-port=0 --node-ip-address=127.0.0.2 --temp-dir="$FOLDER/h" >head.log 2>&1 &
until python -m mars.cluster.wait_for_nodes 127.0.0.2:$1 1 120; do :; done
ray start --address=127.0.0.2:$1 $common --num-cpus=2 \
    --dashboard-agent-listen-port=0 --node-ip-address=127.0.0.3 --temp-dir="$FOLDER/w" >worker.log 2>&1 &
python -m mars.cluster.wait_for_nodes 127.0.0.2:$1 2 120
submit() { ray job submit --address http://127.0.0.1:$2 --submission-id $1 -- ENTRYPOINT; }
submit first $2 >first.log 2>&1 &
job=$!
until [ -s "$RUN/metrics.jsonl" ]; do kill -0 $job; sleep 0.05; done
bash "$HOOK"
ls "$RUN/checkpoints" >after_hook
wait $job && echo 0 >first || echo $? >first
submit second $2 >second.log 2>&1 && echo 0 >second || echo $? >second
bash "$HOOK"
"""


@pytest.mark.timeout(600)  # it starts many processes
@pytest.mark.skipif(bool(no_process_namespaces()), reason=no_process_namespaces())
def test_a_run_saves_before_its_pods_end_and_the_next_job_resumes_it(workshop: Workshop, tmp_path: Path):
    run_dir = tmp_path / "run"
    settings = [text.replace("'", "") for text in workshop.overrides()[1:]] + [*SETTINGS, f"run.dir={run_dir}"]
    params = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    given = " ".join(f"--{name}={value}" for name, value in params.items() if name != "object-store-memory")
    with tempfile.TemporaryDirectory(prefix="mk-", dir="/tmp") as folder:  # short: Ray's sockets are in it
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_AUTH_MODE": JOB["spec"]["rayClusterSpec"]["authOptions"]["mode"],
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "HEAD_PARAMS": given,
            "FOLDER": folder,
            "RUN": str(run_dir),
            "HOOK": str(HOOK),
        }
        script = PODS.replace("ENTRYPOINT", f"{PROGRAM} {' '.join(settings)}")
        done = subprocess.run(
            [*POD, "bash", "-c", script, "bash", *_free_ports(3)],
            env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        logs = {path.name: path.read_text() for path in Path(folder).iterdir() if path.is_file()}
    assert done.returncode == 0, (done.stderr, logs)
    assert (logs["first"].strip(), logs["second"].strip()) == ("1", "0"), logs
    assert "exit code 75" in logs["first.log"]
    assert "step_" in logs["after_hook"], "the checkpoint is there when the hook ends"
    events = [entry["event"] for entry in read_events(run_dir)]
    assert [name for name in events if name in ("resumed", "interrupted", "finished")] == [
        "resumed", "interrupted", "resumed", "finished",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))


def _free_ports(number: int) -> list[str]:
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("", 0))
        return [str(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
