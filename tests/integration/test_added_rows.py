"""Rows that another program writes while a run trains: checked as the rows of its start, and known to a resumed run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mars.added_rows import read_added, training_stream
from mars.inputs import load_inputs
from tests.integration.test_inputs import configure, row
from tests.integration.workshop import ROOT, Workshop, run

__all__ = ["configure"]
GROWING = f"{ROOT / 'recipe' / 'syn_grpo' / 'functions.py'}:GrowingSet"


def lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def test_added_rows_pass_the_checks_of_the_rows_before_them(configure, pictures, tmp_path, caplog):
    config = configure([row(pictures[:2])] * 2, "data.max_prompt_tokens=120")
    inputs = load_inputs(config, with_training_set=True)
    missing = {**row(pictures[:1]), "images": ["gone.png"]}
    rows = [
        row(pictures[:1]),
        missing,
        row(pictures[:1], truth="[[30, 2, 20, 30]]"),
        row(pictures[:1], question="why " * 200),
        row(pictures[:3]),
        row(pictures[:2], id="a"),
        row(pictures[:2], id="a"),
        row([], question="Where is it?"),
    ]
    found = read_added(config, inputs, lines(tmp_path / "new.jsonl", rows))
    assert [prompt.row.rpartition(":")[2] for prompt in found.prompts] == ["0", "5", "7"]
    assert found.refused == 5
    for reason in ("image_missing", "truth", "overlong", "num_images", "duplicate_id"):
        assert f"{reason} 1" in caplog.text
    assert "3 images; the engines were started for 2" in caplog.text
    assert "First think inside" in found.prompts[0].messages[-1].text, "it has the run's template"
    assert read_added(config, inputs, str(tmp_path / "new.jsonl")) == found


def test_a_file_that_cannot_be_read_adds_nothing(configure, pictures, tmp_path, caplog):
    config = configure([row(pictures[:2])] * 2)
    inputs = load_inputs(config, with_training_set=True)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 half of a file")
    for name, reason in [("broken.parquet", "cannot be read as parquet"), ("gone.jsonl", "no such file")]:
        found = read_added(config, inputs, str(tmp_path / name))
        assert (found.prompts, found.fingerprint) == ((), "")
        assert reason in caplog.text


def test_rows_of_a_set_without_a_reward_are_left_out(configure, pictures, tmp_path, caplog):
    config = configure([row(pictures[:2])] * 2, "reward.functions={test: grounding}", "reward.function=null")
    inputs = load_inputs(config, with_training_set=True)
    other = {**row(pictures[:2]), "data_source": "other"}
    found = read_added(config, inputs, lines(tmp_path / "new.jsonl", [other, row(pictures[:1])]))
    assert ([prompt.data_source for prompt in found.prompts], found.refused) == (["test"], 1)
    assert "no reward for 'other'" in caplog.text


def test_a_run_without_a_sampler_adds_nothing(configure, pictures):
    config = configure([row(pictures[:2])] * 2)
    inputs = load_inputs(config, with_training_set=True)
    stream, prompts = training_stream(config, inputs)
    assert list(prompts.values()) == list(inputs.train.prompts)
    assert stream.num_prompts == len(stream) == 2


@pytest.fixture
def folder(workshop: Workshop, tmp_path: Path) -> Path:
    """Rows of the workshop as another program would write them."""
    source = tmp_path / "source"
    done = run(
        [str(ROOT / "recipe" / "syn_grpo" / "paint.py"), str(workshop.data / "train.parquet"), str(source)],
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    return source


def test_a_run_and_its_resume_train_on_rows_that_appear(workshop: Workshop, tmp_path: Path, folder: Path):
    """Every prompt of a step is a new one, so the checkpoint names prompts of files that are no training files."""
    rows = tmp_path / "rows"
    rows.mkdir()
    shutil.copy(folder / "train.parquet", rows / "first.parquet")
    settings = f"folder: '{rows}', share: 1.0, files_per_round: 1, weight: 0.5, decay: 0.9"
    given = [
        *workshop.overrides(), f"data.image_root={workshop.data}", f"run.dir='{tmp_path / 'run'}'",
        "data.eval_files=[]", "cluster.kind=local", "rollout.engine=hf", "rollout.num_workers=1",
        "actor.num_workers=1", "evaluation.every=0", "reward.num_workers=1", "algorithm=dapo", "algorithm.max_rounds=3",
        "algorithm.overlong_buffer_tokens=null", "rollout.samples_per_prompt=2", "checkpoint.every=1",
        f"recipe.sampler={GROWING}", f"recipe.settings={{syn_grpo: {{{settings}}}}}",
    ]  # fmt: skip
    job = run(["-m", "mars.main", *given], tmp_path / "run")
    assert job.returncode == 0, job.stderr[-3000:]
    (rows / "second.jsonl").write_text("{}\n")
    job = run(["-m", "mars.main", *given, "run.resume=true", "run.num_steps=3"], tmp_path / "run")
    assert job.returncode == 0, job.stderr[-3000:]
    added = [row["sampler/rows_added"] for row in job.metrics]
    assert added == [added[0]] * 3
    assert added[0] >= 8
    assert [row["sampler/rows_refused"] for row in job.metrics] == [0, 0, 1]
    assert all(row["mars/prompts_sampled"] >= 4 for row in job.metrics)
