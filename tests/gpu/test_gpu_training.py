"""What only a GPU can show. Skipped, with a reason, where there is none.

.venv/bin/python -m pytest -m '' tests/gpu
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
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.data.synthetic.write import SetSizes, write_synthetic
    from tests.unit.data.convert.small_sets import run_convert

    folder = tmp_path_factory.mktemp("gpu")
    build_tiny(folder / "model", seed=2)
    write_synthetic(folder / "data" / "scenes", seed=3, sizes=SetSizes(train=8, test=2, cold_start=0), bias=0.5)
    run_convert(folder / "data", "llvip", folder / "data" / "scenes")
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
        assert 0 < row["perf/max_memory_allocated_gb"] < torch.cuda.mem_get_info()[1] / 2**30


def test_peak_memory_is_what_was_allocated_at_once():
    from mars.actor.memory import PeakMemory

    alone = not torch.distributed.is_initialized()
    if alone:
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1, store=store)
    held = torch.cuda.memory_allocated()
    peak = PeakMemory(torch.device("cuda", torch.cuda.current_device()))
    for _ in range(3):  # freed each time
        torch.zeros(2**28, dtype=torch.uint8, device="cuda")
    found = peak.metrics()["perf/max_memory_allocated_gb"] - held / 2**30
    if alone:
        torch.distributed.destroy_process_group()
    assert found == pytest.approx(0.25, abs=0.01)


def test_old_logprobs_are_those_of_the_first_update(workshop: Path, tmp_path: Path):
    """Two updates in a step: the old pass has a time of its own, and nothing has moved when the second one runs.

    A larger learning rate changes some weights' rounding to 16 bits.
    """
    on_gpu = ("rollout.engine=hf", "cluster.device=cuda", "model.dtype=bfloat16", "actor.prompts_per_update=2")
    for row in train(workshop, tmp_path / "run", *on_gpu, "actor.learning_rate=1.0e-12"):
        assert row["timing_s/old_log_prob"] > 0
        assert abs(row["actor/ppo_kl"]) < 1e-4
        assert row["actor/pg_clipfrac"] == 0


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for GPUs: pip install -e '.[vllm]'")
def test_vllm_and_the_trainer_agree_on_the_gpu(workshop: Path, tmp_path: Path):
    rows = train(
        workshop, tmp_path / "run", "cluster.device=cuda", "rollout.vllm.kv_cache_memory_bytes=null",
        "rollout.vllm.block_size=null", "rollout.vllm.gpu_memory_utilization=0.3",
    )  # fmt: skip
    for row in rows:
        assert row["rollout/logprob_diff_max"] < 1e-2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: one for the engine, one for the trainer")
def test_ray_gives_engine_and_trainer_a_gpu_each(workshop: Path, tmp_path: Path):
    rows = train(workshop, tmp_path / "run", "cluster=ray", "rollout.engine=hf", "cluster.device=cuda")
    for row in rows:
        assert row["rollout/logprob_diff_max"] < 1e-2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_of_the_3b_model(tmp_path: Path):
    """The smallest run of it: says whether a session of measurements would get through. Two minutes or more."""
    if torch.cuda.mem_get_info()[1] < 100 * 2**30:
        pytest.skip("needs a GPU of 100 GiB: trainer and engine of a 3B model in one process")
    script = Path(__file__).parents[2] / "scripts" / "bench.py"
    command = [
        sys.executable, str(script), "gpu", "--cases", "two_640x480", "--rollout", "hf", "--prompts", "2",
        "--samples", "2", "--response-tokens", "8", "--steps", "2", "--rounds", "1", "--peak-tflops", "1000",
        "--folder", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-3000:]
    variant = json.loads(done.stdout)["cases"]["two_640x480"]["checkpointing"]
    for runs in variant["packings"].values():
        (run,) = runs
        assert 0 < run["update_mfu"] < 1
        assert 40 < run["peak_memory_gib"] < 140
        assert run["logprob_diff_max"] < 0.5


def test_offloaded_weights_are_trained_as_those_on_the_gpu(workshop: Path, tmp_path: Path):
    """With less memory of the GPU: it has the activations, and one layer's weights at a time."""
    kept, offloaded = (
        train(workshop, tmp_path / where, "rollout.engine=hf", "cluster.device=cuda", f"actor.offload={where}")
        for where in ("none", "cpu")
    )
    for one, other in zip(kept, offloaded, strict=True):
        for key in ("actor/pg_loss", "actor/grad_norm", "actor/entropy"):
            assert other[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5)
        assert other["perf/max_memory_allocated_gb"] < one["perf/max_memory_allocated_gb"]
