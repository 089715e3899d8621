"""scripts/bench.py gpu with a tiny model on the CPU: one run of the trainer alone."""

from __future__ import annotations

import json

from scripts.bench import gpu
from scripts.bench.gpu_workload import SMOKE, prepare


def test_the_smallest_run_of_the_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "make_workload", lambda folder, options: prepare(folder, "tiny", "cpu", 4, [SMOKE]))
    arguments = ["--smoke", "--rollout", "scripted", "--variants", "lora", "--packings", "shared_prefix"]
    code = gpu.main([*arguments, "--folder", str(tmp_path), "--json", str(tmp_path / "kept.json")])
    out, err = capsys.readouterr()
    assert code == 0, err
    report = json.loads(out)
    assert json.loads((tmp_path / "kept.json").read_text()) == report
    assert (report["failures"], report["skipped"]) == ([], [])
    lora = report["cases"]["smoke"]["lora"]
    (run,) = lora["packings"]["shared_prefix"]
    assert run["seconds"]["update_actor"] > 0
    assert set(run["tokens_per_second"]) == {"old_log_prob", "update_actor"}  # the engine has no model
    assert lora["work"]["teraflops_per_step"]["vision"]["backward"] == 0
    (run_dir,) = tmp_path.glob("smoke_lora_*/run")
    assert (run_dir / "metrics.jsonl").exists()
    written = {path.name for path in run_dir.iterdir()}
    assert not written & {"policy", "step_000002", "step_000003"}
    assert list(run_dir.glob("checkpoints/*")) == []
