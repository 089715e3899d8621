"""recipe/effect: a study of two arms with real training processes and a tiny model, from its file to its report."""

from __future__ import annotations

import os

import pytest
import yaml

from mars.answers.files import read_answers, step_file
from recipe.effect.decided import keep_study
from recipe.effect.plan import planned_runs
from recipe.effect.record import read_record, settings_by_arm
from recipe.effect.report import write_study_report
from recipe.effect.runs import StudyRunner
from recipe.effect.stages import Stages
from recipe.effect.study import load_study
from recipe.effect.tables import read_results
from tests.integration.workshop import LOCAL, Workshop
from tests.shipped.recipes.effect_study import GRPO, MARS, ROOT, content

pytestmark = pytest.mark.slow
OF_THE_RUNNER = ("model.path", "data.train_files", "data.eval_files", "run.num_steps")


def test_a_small_study_with_real_runs(workshop: Workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, file = tmp_path / "out", tmp_path / "given.yaml"
    common = [text for text in workshop.overrides()[1:] if text.partition("=")[0] not in OF_THE_RUNNER]
    engine = ["rollout=hf", "evaluation.max_samples=2", "tracking.rollouts_every=1", "tracking.rollout_prompts=4"]
    changes = {"dials": [0.5], "seeds": {0.5: "1"}, "steps": 2, "budget": 10, "arms": {"grpo": GRPO, "mars": MARS}}
    primary = {"metric": "critic/score/mean", "first": 1, "last": 2}
    given = content(**changes, primary=primary, overrides=[*common, *LOCAL, *engine])
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    study = load_study(file)
    (out / "shipped").mkdir(parents=True)
    (out / "data").mkdir()
    for entry in workshop.data.iterdir():  # not the folder itself, into which the study writes a file
        os.symlink(entry, out / "data" / entry.name)
    Stages(study, out).note_rows()
    os.symlink(workshop.model, out / "shipped" / "0.5_2")

    runs = planned_runs(study, ["grpo", "mars"], [0.5])
    runner = StudyRunner(Stages(study, out, out / "shipped"), settings_by_arm(study, ["grpo", "mars"]))
    keep_study(file, study, out)
    ends = {end.name: end.problem for end in runner.carry_out(runs, 2)}
    assert ends == {"runs/0.5/grpo/1": None, "runs/0.5/mars/1": None}
    records = [read_record(out / run.name) for run in runs]
    assert [record and record.rollouts_per_prompt for record in records] == [10, 10]
    prompts = [{a.prompt_id for a in read_answers(step_file(out / run.name / "rollouts", 2)).checked()} for run in runs]
    assert prompts[0] == prompts[1], "a pair trains on the same prompts"

    assert "2 of 2 runs of 2 steps" in write_study_report(out).read_text()
    grpo, mars = read_results(out / "results.csv")
    assert (grpo["arm"], mars["arm"]) == ("grpo", "mars")
    assert mars["primary"] == pytest.approx(sum(mars["primary_series"]) / 2, abs=1e-5)
    assert {"eval/multi", "eval/mono/visible", "eval/mono/infrared", "eval/union", "eval/n"} <= mars.keys()
    assert "train/mars/gain/mean/all" in mars.keys() - grpo.keys()
