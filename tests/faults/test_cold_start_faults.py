"""How a cold start ends early, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import time

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.data.synthetic.tiny_model import build_tiny
from mars.run_dir.outcome import last_logged_step
from tests.integration.forked import RUN
from tests.integration.workshop import Job, run, start


def test_a_cold_start_ends_on_sigterm_after_its_step_and_goes_on(tmp_path):
    build_tiny(tmp_path / "policy", seed=3)
    rows = [{"prompt": f"Number {i}?", "answer": "yes", "response": f"<answer>{i}</answer>"} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run_dir = tmp_path / "run"
    command = [
        "-m", "mars.sft", f"model.path={tmp_path / 'policy'}", "model.dtype=float32", "cluster=local",
        f"data.train_files=[{tmp_path / 'train.jsonl'}]", "data.template=none", "cluster.device=cpu",
        "sft.batch_size=4", "sft.log_every=1", "checkpoint.every=0", "tracking.wandb=off", f"run.dir={run_dir}",
    ]  # fmt: skip
    process = start([*command, "run.num_steps=1000000"], tmp_path, tmp_path, RUN)
    try:
        end = time.monotonic() + 200
        while process.wait(0) is None and last_logged_step(run_dir) is None and time.monotonic() < end:
            time.sleep(0.02)
        assert process.wait(0) is None, process.stderr
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 75, process.stderr
    finally:
        process.kill()
    assert process.stderr.splitlines()[-1].startswith("interrupted by SIGTERM; to go on: mars resume ")
    assert "Traceback" not in process.stderr
    saved = Catalogue(run_dir / CHECKPOINTS_FOLDER).newest().manifest.step
    assert saved in (last_logged_step(run_dir), last_logged_step(run_dir) + 1), (
        "the row of the last step may be missing"
    )
    resumed: Job = run([*command, f"run.num_steps={saved + 1}", "run.resume=true"], run_dir, RUN)
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in resumed.metrics] == list(range(1, saved + 2))
    assert (run_dir / "policy" / "model.safetensors").exists()
