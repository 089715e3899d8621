"""What is wrong is said before anything starts, with a reason and an exit code."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.integration.workshop import LOCAL, Workshop


def test_a_bad_config_ends_with_2(workshop: Workshop, tmp_path: Path):
    job = workshop.train(tmp_path / "run", "rollout.top_p=2", "rolout.n=3", "actor.num_workers=9")
    assert job.returncode == 2
    for key in ("rollout.top_p", "rolout.n", "actor.num_workers"):
        assert key in job.stderr
    assert not job.run_dir.exists()


def test_a_truncated_image_ends_with_3_and_its_row(workshop: Workshop, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(workshop.data, data)
    image = sorted((data / "scenes" / "infrared" / "train").glob("*.png"))[2]
    image.write_bytes(image.read_bytes()[:200])
    files = f"data.train_files=['{data}/train.parquet']"
    job = workshop.train(tmp_path / "run", files)
    assert job.returncode == 3
    assert "train.parquet:2" in job.stderr
    assert image.name in job.stderr
    assert "Traceback" not in job.stderr

    dropped = workshop.train(
        tmp_path / "dropped", files, *LOCAL, "rollout.engine=scripted", "run.num_steps=1", "data.on_bad_sample=drop"
    )
    assert dropped.returncode == 0, dropped.stderr[-3000:]
    assert dropped.metrics[0]["data/dropped"] == 1


def test_a_flipped_byte_in_an_image_ends_with_3(workshop: Workshop, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(workshop.data, data)
    image = sorted((data / "scenes" / "visible" / "train").glob("*.png"))[1]
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 0xFF
    image.write_bytes(content)
    job = workshop.train(tmp_path / "run", f"data.train_files=['{data}/train.parquet']")
    assert job.returncode == 3
    assert "train.parquet:1" in job.stderr
    assert image.name in job.stderr


def test_a_missing_gpu_ends_with_4(workshop: Workshop, tmp_path: Path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    job = workshop.train(tmp_path / "run", "cluster.device=cuda")
    assert job.returncode == 4
    assert "GPU" in job.stderr
    assert "cluster.device=cpu" in job.stderr
    local = workshop.train(tmp_path / "local", *LOCAL, "rollout=hf", "cluster.device=cuda")
    assert local.returncode == 4
    assert "cluster.device=cpu" in local.stderr


def test_an_unreachable_cluster_ends_with_4(workshop: Workshop, tmp_path: Path):
    start = time.monotonic()
    job = workshop.train(tmp_path / "run", "cluster.address='127.0.0.1:1'")
    assert job.returncode == 4, job.stderr[-2000:]
    assert "cluster.address" in job.stderr
    assert time.monotonic() - start < 120


def test_a_missing_model_ends_with_4(workshop: Workshop, tmp_path: Path):
    job = workshop.train(tmp_path / "run", f"model.path='{tmp_path}/nowhere'")
    assert job.returncode == 4
    assert "model.path" in job.stderr


def test_a_used_run_folder_is_refused(workshop: Workshop, tmp_path: Path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    job = workshop.train(run_dir)
    assert job.returncode == 2
    assert "run.dir" in job.stderr


def test_a_dry_run_starts_nothing_and_shows_the_arithmetic(workshop: Workshop, tmp_path: Path):
    job = workshop.train(tmp_path / "run", "--dry-run")
    assert job.returncode == 0, job.stderr
    assert "4 multi + 2 anchor rollouts" in job.stdout
    assert "24 rollouts, 16 of them trained on" in job.stdout
    assert not job.run_dir.exists()
