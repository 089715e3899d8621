"""The project of `mars init`: the commands of its README, as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.workshop import ROOT

TIMEOUT_S = 600.0  # for several fresh interpreters that import torch on a busy machine
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT_S)
def test_the_commands_of_the_readme_test_the_reward_and_train(tmp_path):
    """`python` and `mars` are those of an environment in which mars is installed."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }

    def run(commands: str, folder: Path) -> str:
        result = subprocess.run(
            ["bash", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return result.stdout

    run("mars init project", tmp_path)
    project = tmp_path / "project"
    readme = (project / "README.md").read_text(encoding="utf-8")
    start, change = BLOCK.findall(readme)
    assert start.splitlines() == [
        "python -m pytest -q",
        "bash run.sh --dry-run",
        "bash run.sh",
        "mars report runs/first",
    ]
    output = run(start, project)
    assert "4 passed" in output
    assert "dry run: settings, data and model files are in order" in output
    metrics = [json.loads(line) for line in (project / "runs/first/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(row["actor/grad_norm"] > 0 for row in metrics), "the reward of random answers varies"
    assert all(0 < row["reward/short/mean"] < 0.1 for row in metrics)
    assert (project / "runs/first/policy/model.safetensors").is_file()
    assert (project / "runs/first/report.html").is_file()
    output = run(change, project)
    assert "score     1.28975" in output  # 1 + 0.2 + 0.1 (1 - 41 / 400)
    assert (project / "rows.html").is_file()
    assert re.search(r"data\.train_files +\[rows\.jsonl\]", output)
    assert "actor.learning_rate" in output
