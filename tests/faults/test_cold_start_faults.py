"""A cold start in a process of its own: it ends early, or loses a rank."""

from __future__ import annotations

import json
import os
import signal
import time

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.data.synthetic.tiny_model import build_tiny
from mars.run_dir.outcome import last_logged_step
from tests.integration import cold_start_job
from tests.integration.cold_start_job import build_files
from tests.integration.forked import RUN
from tests.integration.workshop import run, start
from tests.shipped.test_docs_metrics import undocumented

JOB = cold_start_job.__file__


def test_a_cold_start_ends_on_sigterm_after_its_step_and_goes_on(tmp_path):
    build_tiny(tmp_path / "policy", seed=3)
    rows = [{"prompt": f"Number {i}?", "answer": "yes", "response": f"<answer>{i}</answer>"} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run_dir = tmp_path / "run"
    command = [
        "-m", "mars.sft", f"model.path={tmp_path / 'policy'}", "model.dtype=float32", "cluster=local",
        f"data.train_files=[{tmp_path / 'train.jsonl'}]", "data.template=none", "cluster.device=cpu",
        "sft.batch_size=4", "sft.log_every=1", "checkpoint.every=0", "tracking.to=[console]", f"run.dir={run_dir}",
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
    resumed = run([*command, f"run.num_steps={saved + 1}", "run.resume=true"], run_dir, RUN)
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in resumed.metrics] == list(range(1, saved + 2))
    assert (run_dir / "policy" / "model.safetensors").exists()


def test_a_lost_rank_on_ray_costs_no_step(tmp_path):
    """It dies before its third update, and is built again from the checkpoint after the second."""
    folder = tmp_path
    build_files(folder)
    (tmp_path / "once").mkdir()
    (tmp_path / "alone").mkdir()
    alone = start([JOB, str(folder), "0", "1"], folder, tmp_path / "alone", RUN)
    assert alone.finish(200) == 0, alone.stderr[-3000:]
    settings = [
        f"model.path={folder / 'policy'}", "model.dtype=float32", f"data.train_files=[{folder / 'train.jsonl'}]",
        f"data.eval_files=[{folder / 'train.jsonl'}]", "data.template=none", "data.min_image_pixels=784",
        "data.max_image_pixels=50176", "cluster.device=cpu", "sft.batch_size=5", "sft.mono_ratio=0.5",
        "sft.tokens_per_forward=60", "sft.learning_rate=3.0e-3", "sft.warmup_steps=0", "sft.log_every=1",
        "run.num_steps=3", "checkpoint.every=1", "tracking.to=[console]", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    fault = {"MARS_FAULT": "actor.before_update:kill@3", "MARS_FAULT_ONCE": str(tmp_path / "once")}
    job = run(["-m", "mars.sft", *settings], tmp_path / "run", **fault)
    assert job.returncode == 0, job.stderr[-3000:]
    one = json.loads((folder / "1-0.json").read_text())
    keys = one["metrics"][0].keys()
    assert [{key: row[key] for key in keys} for row in job.metrics] == one["metrics"]
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event != "checkpoint_saved"] == [
        "started", "worker_lost", "worker_replaced", "trainer_rebuilt", "finished",
    ]  # fmt: skip
    assert not undocumented({key for row in job.metrics for key in row} - {"step"})
