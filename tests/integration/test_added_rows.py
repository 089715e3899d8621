"""Rows that another program writes while a run trains: checked as the rows of its start, and known to a resumed run."""

from __future__ import annotations

import json
from pathlib import Path

from mars.added_rows import read_added, training_stream
from mars.hooks.load import resolved
from mars.inputs import load_inputs
from tests.integration.test_inputs import configure, row
from tests.integration.workshop import ROOT, Workshop, run

__all__ = ["configure"]


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
    config = configure([row(pictures[:2])] * 2, "reward.functions={test: grounding}")
    inputs = load_inputs(config, with_training_set=True)
    other = {**row(pictures[:2]), "data_source": "other"}
    found = read_added(config, inputs, lines(tmp_path / "new.jsonl", [other, row(pictures[:1])]))
    assert ([prompt.data_source for prompt in found.prompts], found.refused) == (["test"], 1)
    assert "no reward for 'other'" in caplog.text


def test_rows_that_a_training_file_has_are_left_out(configure, pictures, tmp_path, caplog):
    """A row with the id of one of them, and a copy of one of two files."""
    (tmp_path / "own.py").write_text(READS.format(folder=tmp_path))
    sampler = f"recipe.sampler={tmp_path / 'own.py'}:Reads"
    first = [row(pictures[:2], id="a"), row(pictures[:2])]
    second, out = lines(tmp_path / "second.jsonl", [row(pictures[:1])]), tmp_path / "new.jsonl"
    config = configure(first, sampler, "data.prompts_per_step=2", "actor.prompts_per_update=2")
    files = [*config.data.train_files, second]
    config = config.model_copy(update={"data": config.data.model_copy(update={"train_files": files})})
    config = config.model_copy(update={"recipe": resolved(config.recipe)})
    inputs = load_inputs(config, with_training_set=True)
    for rows, added in ([row(pictures[:2], id="a"), row(pictures[:2], id="b")], 1), ([row(pictures[:1])], 0):
        stream, prompts = training_stream(config, inputs)
        lines(out, rows)
        stream.batch(0)
        assert len(prompts) - len(inputs.train.prompts) == added
    assert "new.jsonl: 1 of its rows have the extra_info.id of another" in caplog.text
    assert "new.jsonl: has the contents of a training file; no row is added" in caplog.text


def test_a_run_without_a_sampler_adds_nothing(configure, pictures):
    config = configure([row(pictures[:2])] * 2)
    inputs = load_inputs(config, with_training_set=True)
    stream, prompts = training_stream(config, inputs)
    assert list(prompts.values()) == list(inputs.train.prompts)
    assert stream.num_prompts == len(stream) == 2


READS = """
class Reads:
    def __init__(self, setup): self.setup = setup

    def batch(self, round, left_out):
        self.setup.read_rows("{folder}/new.jsonl")
        return self.setup.sets[0]

    def probes(self, step): return ()
    def observe(self, rollouts, step): return {{}}
    def state(self): return {{}}
    def restore(self, state): ...
"""


SAMPLER = """
class Added:
    def __init__(self, setup):
        self.setup, self.refused = setup, 0

    def batch(self, round, left_out):
        added = self.setup.read_rows("{folder}/train.parquet")
        self.setup.read_rows(f"{folder}/{{round}}.jsonl")
        return added[3 * round : 3 * round + 3]

    def probes(self, step): return ()
    def observe(self, rollouts, step): return {{}}
    def state(self): return {{}}
    def restore(self, state): ...
"""


def test_a_run_and_its_resume_train_on_rows_that_are_in_no_training_file(workshop: Workshop, tmp_path: Path):
    """Rounds of three prompts for steps of two, so the checkpoint has a prompt that is carried."""
    paint = str(ROOT / "recipe" / "syn_grpo" / "paint.py")
    done = run([paint, str(workshop.data / "train.parquet"), str(tmp_path)], tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "added.py").write_text(SAMPLER.format(folder=tmp_path))
    given = [
        *workshop.overrides(), f"data.image_root={workshop.data}", f"run.dir='{tmp_path / 'run'}'",
        "data.eval_files=[]", "cluster.kind=local", "rollout.engine=hf", "rollout.num_workers=1",
        "actor.num_workers=1", "evaluation.every=0", "reward.num_workers=1", "rollout.samples_per_prompt=2",
        "data.prompts_per_step=2", "actor.prompts_per_update=2", f"recipe.sampler={tmp_path / 'added.py'}:Added",
    ]  # fmt: skip
    job = run(["-m", "mars.main", *given, "run.num_steps=1"], tmp_path / "run")
    assert job.returncode == 0, job.stderr[-3000:]
    assert "0.jsonl: no such file" in job.stderr
    (tmp_path / "1.jsonl").write_text("{}\n")
    job = run(["-m", "mars.main", *given, "run.resume=true", "run.num_steps=2"], tmp_path / "run")
    assert job.returncode == 0, job.stderr[-3000:]
    first, second = job.metrics
    assert (first["mars/prompts_carried"], second["mars/prompts_carried"]) == (1, 2)
    assert [row["sampler/rows_added"] for row in job.metrics] == [12, 12]
    assert [row["sampler/rows_refused"] for row in job.metrics] == [0, 1]
