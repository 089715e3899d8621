"""A cold start of the benchmark, made as its command makes it, and the copy that is kept in the repository."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from recipe.effect.cold_start import make_cold_start, store

pytestmark = pytest.mark.slow
SMALL = {"rows": 24, "settings": ("run.num_steps=2", "sft.batch_size=8", "sft.warmup_steps=0")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("cold start")
    make_cold_start(out, dial=0.95, seed=3, **SMALL)
    return out


@pytest.mark.slow
def test_it_trains_a_policy_and_writes_its_commands_down(made):
    commands = json.loads((made / "work" / "commands.json").read_text())
    assert commands["data"][-1] == "0.95"
    assert "run.seed=3" in commands["run"]
    metrics = [json.loads(line) for line in (made / "work" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 2
    trained, random = (load_file(made / name / "model.safetensors") for name in ("policy", "work/random"))
    assert trained.keys() == random.keys()
    assert any(not torch.equal(trained[name], random[name]) for name in trained)


@pytest.mark.slow
def test_a_second_call_runs_nothing_and_other_settings_are_refused(made, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a stage was run again"))
    assert make_cold_start(made, dial=0.95, seed=3, **SMALL) == made / "policy"
    with pytest.raises(SystemExit, match="made with other settings"):
        make_cold_start(made, dial=0.5, seed=3, **SMALL)


def test_the_stored_copy_is_the_policy_rounded_to_bfloat16(made, tmp_path):
    from transformers import AutoModelForImageTextToText

    store(made / "policy", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in (made / "policy").iterdir()}
    before, after = (load_file(folder / "model.safetensors") for folder in (made / "policy", tmp_path))
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert model.lm_head.weight.dtype == torch.float32
