"""The recipes as a user starts them: the run scripts on real rows, and a few real steps of each tiny experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.python import call_script
from tests.integration.workshop import Job, Workshop, run

DAPO = "recipe/dapo/run_dapo_qwen2.5_3b.sh"
MARS = "recipe/mars/run_mars_qwen2.5_3b.sh"
EXAMPLE = "examples/grpo_trainer/run_qwen2_5_vl-3b.sh"
REWARD = f"{Path(__file__).with_name('varied_reward.py')}:score"  # random text scores nothing; this varies
ON_A_CPU = ("cluster.device=cpu", "rollout.tensor_parallel_size=1")


def start(script: str, cwd: Path, *arguments: str) -> Job:
    """`bash script arguments` from `cwd`, and what it starts; the run's folder is cwd/run."""
    call = call_script(script, *arguments, folder=cwd, cwd=cwd)
    assert call.returncode == 0, call.stderr
    return run(["-m", "mars.main", *call.of_mars_main], cwd / "run")


def test_a_script_checks_its_arguments_and_data(workshop: Workshop, tmp_path: Path):
    rows = tmp_path / "rows"
    rows.mkdir()
    enlarge(workshop.data, rows, times=11)
    given = ["--dry-run", f"model.path='{workshop.model}'", f"data.image_root='{workshop.data}'", *ON_A_CPU]
    done = start(EXAMPLE, tmp_path, "vllm", "rows", "grounding", "2", *given)
    assert done.returncode == 0, done.stderr
    assert "132 rows with 2" in done.stdout
    assert "128 prompts, 2048 rollouts, 1792 of them trained on" in done.stdout
    baseline = start(DAPO, tmp_path, "hf", "rows", "grounding", "any", "anchor=none", *given)
    assert baseline.returncode == 0, baseline.stderr
    assert "16 prompts, 192 rollouts, 192 of them trained on" in baseline.stdout
    wrong = start(MARS, tmp_path, "hf", "rows", "grounding", "3", *given)
    assert wrong.returncode == 3
    assert "train.parquet:0" in wrong.stderr
    assert "2 images; data.images_per_row is 3" in wrong.stderr
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"


def enlarge(source: Path, target: Path, times: int) -> None:
    """The rows of `source` several times over, without ids."""
    import pyarrow as pa
    from pyarrow import parquet

    for part in ("train", "test"):
        rows = parquet.read_table(source / f"{part}.parquet").drop_columns(["extra_info"])
        parquet.write_table(pa.concat_tables([rows] * times), target / f"{part}.parquet")


@pytest.mark.parametrize("method", ["grpo", "mars_grpo", "dapo", "mars_dapo"])
def test_the_tiny_experiments_train(workshop: Workshop, tmp_path: Path, method: str):
    """Real vLLM and FSDP, in one process; as they are written they use Ray, as the runs of test_training_job.py do."""
    script, anchored = (DAPO if "dapo" in method else MARS), method.startswith("mars_")
    job = start(
        script, tmp_path, "vllm", str(workshop.data), REWARD, "2", f"experiment={method}_tiny", "run.dir=run",
        f"model.path='{workshop.model}'", "run.num_steps=2", "data.prompts_per_step=4", "actor.prompts_per_update=4",
        "rollout.samples_per_prompt=4", "evaluation.before_training=false", "cluster.kind=local",
        "actor.num_workers=1",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    for row in job.metrics:
        assert row["actor/grad_norm"] > 0
        assert row["mars/prompts_kept"] == 4
        assert (row["anchor/tokens"] > 0) == anchored
        assert row.get("mars/lambda") == (pytest.approx(4 / 6) if anchored else None)
        assert ("reward/overlong_penalty/mean" in row) == ("dapo" in method)
        assert row["mars/rounds"] <= (10 if "dapo" in method else 1)
    assert (job.metrics[1]["actor/kl_loss"] > 0) == ("grpo" in method), (
        "after one update the policy has left its reference"
    )
    # A random policy babbles up to the limit: nearly every response loses the whole factor of 1.
    if "dapo" in method:
        assert job.metrics[0]["reward/overlong_penalty/mean"] < -0.5
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
