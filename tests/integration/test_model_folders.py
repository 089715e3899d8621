"""Jobs on models that are broken, and on one that transformers loads but refuses to save."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.workshop import LOCAL, Workshop


@pytest.fixture
def copy(workshop: Workshop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop.model, tmp_path / "model"))


def test_a_layer_that_is_missing_ends_with_4_before_ray_starts(workshop: Workshop, copy: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    for arguments in ([], ["--dry-run"]):
        job = workshop.train(tmp_path / "run", f"model.path='{copy}'", *arguments)
        assert job.returncode == 4, job.stderr[-2000:]
        assert "up_proj" in job.stderr
        assert str(copy) in job.stderr
        assert "Traceback" not in job.stderr
        assert not job.run_dir.exists()


def test_a_policy_with_the_generation_settings_of_public_models_is_saved(
    workshop: Workshop, copy: Path, tmp_path: Path
):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    settings = copy / "generation_config.json"
    sampling = {"do_sample": False, "temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | sampling))
    job = workshop.train(tmp_path / "run", f"model.path='{copy}'", *LOCAL, "rollout.engine=scripted", "run.num_steps=1")
    assert job.returncode == 0, job.stderr[-3000:]
    policy = job.run_dir / "policy"
    assert (policy / settings.name).read_bytes() == settings.read_bytes()
    AutoModelForImageTextToText.from_pretrained(policy)
    assert AutoProcessor.from_pretrained(policy).chat_template == AutoProcessor.from_pretrained(copy).chat_template
