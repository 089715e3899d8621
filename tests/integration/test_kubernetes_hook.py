"""examples/kubernetes/before_stop.sh in a process namespace of its own, as in a pod: it reads all processes there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / "examples" / "kubernetes" / "before_stop.sh"
POD = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
# The driver saves when it gets SIGTERM, and then ends the worker, as the end of Ray's job does.
DRIVER = """
trap 'sleep 0.3; echo saved >>"$RECORD"; kill $(pgrep -f ^ray::); exit 75' TERM
touch "$RECORD"
while :; do sleep 0.05; done
"""
ON_THE_HEAD = """
cd "$1"
(exec -a 'ray::TrainerWorker.update' sleep 1000) &
bash driver.sh -m mars.main &
bash -c 'true; sleep 1000; : python -m mars.main' & # a shell that only speaks of it
other=$!
until [ -e "$RECORD" ]; do sleep 0.02; done
bash "$HOOK"
echo hook >>"$RECORD"
kill -0 $other && echo other >>"$RECORD"
"""
ON_A_WORKER = """
(exec -a 'ray::EngineWorker.generate' sleep 1000) &
worker=$!
(sleep 0.3; echo ended >>"$RECORD"; kill $worker) &
bash "$HOOK"
echo hook >>"$RECORD"
"""


def no_process_namespaces() -> str:
    """Why there are none here; empty if there are."""
    try:
        done = subprocess.run([*POD, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(no_process_namespaces()), reason=no_process_namespaces())


@pytest.fixture
def in_a_pod(tmp_path):
    """script -> what the processes have recorded, in the order in which it happened."""
    (tmp_path / "driver.sh").write_text(DRIVER)

    def run(script: str) -> list[str]:
        record = tmp_path / "record"
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "RECORD": str(record), "HOOK": str(HOOK)}
        command = [*POD, "bash", "-c", script, "bash", str(tmp_path)]
        subprocess.run(command, env=environment, check=True, timeout=60)
        return record.read_text().split()

    return run


def test_the_driver_saves_before_the_hook_ends(in_a_pod):
    assert in_a_pod(ON_THE_HEAD) == ["saved", "hook", "other"]


def test_a_pod_of_workers_waits_for_them(in_a_pod):
    assert in_a_pod(ON_A_WORKER) == ["ended", "hook"]


def test_a_pod_without_a_run_ends_at_once(in_a_pod):
    assert in_a_pod('bash "$HOOK"; echo hook >>"$RECORD"') == ["hook"]
