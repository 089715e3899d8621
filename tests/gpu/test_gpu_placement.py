"""Engine and trainer that take turns on one GPU. Skipped, with a reason, where there is none.

.venv/bin/python -m pytest -m '' tests/gpu
"""

import importlib.util
from pathlib import Path

import pytest

from tests.gpu.test_gpu_training import train, workshop  # noqa: F401 - a fixture

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; torch sees none")


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.startswith(("timing_s/", "perf/"))} for row in rows]


def test_memory_that_was_moved_is_the_gpus_again_and_comes_back_to_the_bit():
    from mars.offload import HostCopies

    weights = torch.randn(2**24, device="cuda")
    before, held, copies = weights.cpu(), torch.cuda.memory_reserved(), HostCopies()
    copies.take([weights])
    assert torch.cuda.memory_reserved() <= held - 2**26
    assert copies.copy_of(weights).is_pinned()
    assert torch.equal(copies.copy_of(weights), before)
    copies.bring_back()
    assert torch.equal(weights.cpu(), before)


def test_in_turns_the_run_is_the_same(workshop: Path, tmp_path: Path):  # noqa: F811
    """With checkpoints, which are read from host memory, and a KL term, for which the turn changes within a step."""
    settings = ("rollout.engine=hf", "cluster.device=cuda", "checkpoint.every=1", "algorithm.kl_coefficient=0.1",
                "algorithm.kl_placement=reward", f"algorithm.kl_reference='{workshop}/model'")  # fmt: skip
    apart = train(workshop, tmp_path / "apart", *settings, "cluster.placement=separate")
    together = train(workshop, tmp_path / "together", *settings, "cluster.placement=colocated")
    assert [row["rollout/tokens"] for row in untimed(together)] == [row["rollout/tokens"] for row in untimed(apart)]
    for one, other in zip(untimed(together), untimed(apart), strict=True):
        for key in ("actor/pg_loss", "actor/grad_norm", "actor/entropy"):
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5)
    assert all(row["timing_s/turns"] > 0 for row in together)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for GPUs: pip install -e '.[vllm]'")
def test_vllm_sleeps_while_the_trainer_updates(workshop: Path, tmp_path: Path):  # noqa: F811
    """It takes most of the GPU, so the trainer could not update beside it. Log-probs would show stale weights."""
    rows = train(
        workshop, tmp_path / "run", "cluster.device=cuda", "cluster.placement=colocated",
        "rollout.vllm.kv_cache_memory_bytes=null", "rollout.vllm.block_size=null",
        "rollout.vllm.gpu_memory_utilization=0.9", "evaluation.every=0",
    )  # fmt: skip
    for row in rows:
        assert row["rollout/logprob_diff_max"] < 1e-2
        assert row["timing_s/turns"] > 0


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_gives_an_engine_the_gpu_of_its_rank(workshop: Path, tmp_path: Path):  # noqa: F811
    rows = train(
        workshop, tmp_path / "run", "cluster=ray", "cluster.placement=colocated", "rollout.engine=hf",
        "cluster.device=cuda",
    )  # fmt: skip
    for row in rows:
        assert row["rollout/logprob_diff_max"] < 1e-2
