"""What only a GPU can show. Skipped, with a reason, where there is none.

.venv/bin/python -m pytest tests/gpu
"""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; torch sees none")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    from mars.actor.tiny import build_tiny
    from mars.data.convert.llvip import convert_llvip
    from mars.data.synthetic.write import SetSizes, write_synthetic

    folder = tmp_path_factory.mktemp("gpu")
    build_tiny(folder / "model", seed=2)
    write_synthetic(folder / "data" / "scenes", seed=3, sizes=SetSizes(train=8, test=2, cold_start=0), bias=0.5)
    convert_llvip(str(folder / "data" / "scenes"), str(folder / "data"))
    return folder


def train(workshop: Path, run_dir: Path, *overrides: str) -> list[dict]:
    """Metrics of two steps in one process."""
    reward = Path(__file__).parents[1] / "integration" / "varied_reward.py"
    command = [
        sys.executable, "-m", "mars.main", "experiment=quickstart", "cluster=local", "actor.num_workers=1",
        f"model.path='{workshop}/model'", f"data.train_files=['{workshop}/data/train.parquet']", "data.eval_files=[]",
        "data.prompts_per_step=4", "actor.prompts_per_update=4", "rollout.max_response_tokens=16", "run.num_steps=2",
        f"reward.function='{reward}:score'", f"run.dir='{run_dir}'", *overrides,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_gpu_trains_as_the_cpu_does(workshop: Path, tmp_path: Path):
    """Samples are drawn from noise made on the CPU, so the first step has the same rollouts on both."""
    on_cpu = train(workshop, tmp_path / "cpu", "rollout.engine=hf", "cluster.device=cpu")
    on_gpu = train(workshop, tmp_path / "gpu", "rollout.engine=hf", "cluster.device=cuda")
    assert on_gpu[0]["rollout/tokens"] == on_cpu[0]["rollout/tokens"]
    for key in ("actor/pg_loss", "actor/grad_norm", "actor/entropy"):
        assert on_gpu[0][key] == pytest.approx(on_cpu[0][key], rel=1e-2, abs=1e-4)


def test_bfloat16_on_the_gpu(workshop: Path, tmp_path: Path):
    rows = train(workshop, tmp_path / "run", "rollout.engine=hf", "cluster.device=cuda", "model.dtype=bfloat16")
    for row in rows:
        assert math.isfinite(row["actor/grad_norm"])
        assert row["actor/grad_norm"] > 0
        assert row["rollout/logprob_diff_max"] < 0.5


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for GPUs: pip install 'mars[vllm]'")
def test_vllm_and_the_trainer_agree_on_the_gpu(workshop: Path, tmp_path: Path):
    rows = train(
        workshop, tmp_path / "run", "cluster.device=cuda", "rollout.kv_cache_memory_bytes=null",
        "rollout.block_size=null", "rollout.gpu_memory_utilization=0.3",
    )  # fmt: skip
    for row in rows:
        assert row["rollout/logprob_diff_max"] < 1e-2
