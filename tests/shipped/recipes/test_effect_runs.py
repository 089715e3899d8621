"""recipe/effect: runs are started once, resumed, checked and counted; a program stands in for mars.main."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from mars.errors import BusyError, ConfigError, DataError
from recipe.effect.plan import planned_runs
from recipe.effect.processes import Task, last_lines, run_tasks
from recipe.effect.record import read_record, settings_by_arm, write_record
from recipe.effect.runs import StudyRunner
from recipe.effect.stages import Stages
from tests.shipped.recipes.effect_study import FAKE_TRAIN, GRPO, MARS, ROOT, runner, small_study


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def one_seed(tmp_path, **arms):
    study = small_study(tmp_path, dials=[0.5], seeds={0.5: "1"}, arms={"grpo": GRPO, **arms})
    return study, planned_runs(study, list(arms), [0.5])


def calls(tmp_path, name):
    return (tmp_path / "out" / "runs" / "0.5" / name / "1" / "calls.txt").read_text().split()


def test_a_run_is_started_once_checked_and_noted(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    studying = runner(study, tmp_path / "out")
    assert [(end.name, end.problem) for end in studying.carry_out(studying.missing(runs), 1)] == [
        ("runs/0.5/mars/1", None)
    ]
    record = read_record(tmp_path / "out" / runs[0].name)
    assert record is not None
    assert (record.state, record.rollouts_per_prompt, record.cold_start) == ("finished", 10.0, 2)
    assert record.seconds is not None
    # 0.1 step + 0.01 + 0.05: the mean of 0.36 and 0.46.
    assert record.row["primary"] == pytest.approx(0.41)
    assert not (tmp_path / "out" / runs[0].name / "policy").exists()
    assert studying.missing(runs) == []
    assert calls(tmp_path, "mars") == ["started"]


def test_a_failed_run_is_reported_with_its_log_and_the_others_go_on(tmp_path):
    study, runs = one_seed(tmp_path, fails=GRPO, mars=MARS)
    studying = runner(study, tmp_path / "out")
    ends = {end.name: end.problem for end in studying.carry_out(studying.missing(runs), 2)}
    assert ends["runs/0.5/mars/1"] is None
    assert "exit code 3" in ends["runs/0.5/fails/1"]
    assert "model.path: no such folder; got nowhere" in ends["runs/0.5/fails/1"]
    assert studying.missing(runs) == [runs[0]], "a second call starts it again"


def test_a_run_with_another_number_of_rollouts_is_refused(tmp_path):
    study, runs = one_seed(tmp_path, wrong=MARS)
    studying = runner(study, tmp_path / "out")
    (end,) = studying.carry_out(runs, 1)
    assert end.problem == "rollouts per prompt, anchors included: want 10; got 27 for 3 prompts in step 1"
    assert studying.missing(runs) == [], "it would be the same again"
    assert [refused.problem for refused in studying.refused(runs)] == [end.problem]


def test_an_arm_may_have_a_budget_of_its_own(tmp_path):
    study, runs = one_seed(tmp_path, wrong={**MARS, "rollouts": 9})
    (end,) = runner(study, tmp_path / "out").carry_out(runs, 1)
    assert end.problem is None


def test_an_interrupted_run_is_ended_in_order_and_resumed(tmp_path):
    study, runs = one_seed(tmp_path, waits=MARS, mars=MARS)
    studying = runner(study, tmp_path / "out")
    with closing(studying.carry_out(runs, 2)) as ends:
        # The other run ends, this one waits: the caller is interrupted now.
        assert next(ends).name == "runs/0.5/mars/1"
        log = tmp_path / "out" / "runs" / "0.5" / "waits" / "1" / "console.log"
        while "waiting" not in log.read_text():
            os.sched_yield()
    assert [run.arm for run in studying.missing(runs)] == ["waits"]
    again = runner(study, tmp_path / "out")
    assert [end.problem for end in again.carry_out(again.missing(runs), 1)] == [None]
    assert calls(tmp_path, "waits") == ["started", "resumed"]
    record = read_record(tmp_path / "out" / "runs" / "0.5" / "waits" / "1")
    assert record is not None
    assert (record.state, record.seconds) == ("finished", None), "the time of the first attempt is not known"


def test_changed_settings_of_a_run_are_refused_with_the_remedy(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    list(runner(study, tmp_path / "out").carry_out(runs, 1))
    other, _ = one_seed(tmp_path, mars={**MARS, "overrides": ["anchor=mono", "rollout.samples_per_prompt=6"]})
    with pytest.raises(ConfigError, match=r"rollout\.samples_per_prompt: 8 -> 6(.|\n)*remove these folders"):
        runner(other, tmp_path / "out").missing(runs)


def test_rows_of_another_seed_or_size_are_refused(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    studying = runner(study, tmp_path / "out")
    assert studying.stages_before(runs) == []
    other = small_study(tmp_path, data={"seed": 5007, "train": 8, "test": 4})
    stages = Stages(other, tmp_path / "out", tmp_path / "out" / "shipped")
    with pytest.raises(ConfigError, match=r"^data: .*'seed': 0.*got .*'seed': 5007.*remove .*or give another OUT"):
        stages.tasks([])
    # A run that was started on other rows is not resumed on these, whatever is in the folder now.
    list(studying.carry_out(runs, 1))
    with pytest.raises(ConfigError, match=r"study\.data\.seed: 0 -> 5007"):
        StudyRunner(stages, settings_by_arm(other, ["mars"])).missing(runs)


def test_rows_whose_making_was_interrupted_are_made_again(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    studying, rows = runner(study, tmp_path / "out"), tmp_path / "out" / "data"
    (rows / "rows.json").unlink()
    (task,) = studying.stages_before(runs)
    assert task.name == "data"
    program = [sys.executable, "-c", "raise SystemExit(int(__import__('sys').argv[1]))"]
    (failed,) = run_tasks([replace(task, command=[*program, "4"])], 1, tmp_path)
    assert failed.code == 4
    assert not (rows / "rows.json").exists()
    list(run_tasks([replace(task, command=[*program, "0"])], 1, tmp_path))
    assert studying.stages_before(runs) == []
    (rows / "train.parquet").unlink()
    assert [task.name for task in studying.stages_before(runs)] == ["data"]
    assert studying.stages_before([]) == [], "nothing is left to run"


def test_a_metric_that_no_step_has_stops_the_study_and_can_be_corrected(tmp_path):
    """The first run would otherwise be followed by hours of others that end the same way."""
    study, runs = one_seed(tmp_path, mars={**MARS, "metric": "mars/gain/mean"}, waits=MARS)
    studying = runner(study, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"^arms\.mars\.metric: no step of .*got mars/gain/mean; name a metric"):
        list(studying.carry_out(runs, 2))
    record = read_record(tmp_path / "out" / runs[0].name)
    assert record is not None
    assert record.state == "started"
    corrected, runs = one_seed(tmp_path, mars=MARS)
    assert [end.problem for end in runner(corrected, tmp_path / "out").carry_out(runs, 1)] == [None]


def test_runs_that_another_process_is_training_are_named(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    studying = runner(study, tmp_path / "out")
    studying.check_idle(runs)
    folder = tmp_path / "out" / runs[0].name
    code = (
        "import sys; from pathlib import Path; from mars.run_dir.lock import RunLock; "
        "lock = RunLock(Path(sys.argv[1])); lock.take(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        expected = rf"^{runs[0].name}: process {process.pid} of an earlier call is training it(.|\n)*can be resumed"
        with pytest.raises(BusyError, match=expected):
            studying.check_idle(runs)
        process.communicate()
    studying.check_idle(runs)


def test_a_damaged_record_is_named(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    (tmp_path / "out" / runs[0].name).mkdir(parents=True)
    (tmp_path / "out" / runs[0].name / "study_run.json").write_text("{}")
    with pytest.raises(DataError, match=r"study_run\.json: cannot be read"):
        runner(study, tmp_path / "out").missing(runs)


def test_rows_and_cold_starts_come_first_and_their_failure_spares_other_runs(tmp_path):
    study = small_study(tmp_path, dials=[0.5], seeds={0.5: "0-1"})
    runs = planned_runs(study, ["mars"], [0.5])
    studying = runner(study, tmp_path / "out")
    (tmp_path / "out" / "shipped" / "0.5_2").rmdir()
    stages = Stages(study, tmp_path / "out", tmp_path / "out" / "shipped")
    (task,) = studying.stages_before(runs)
    assert task.name == "cold_starts/0.5/2"
    assert stages.policy(runs[1].start) == tmp_path / "out" / "cold_starts" / "0.5" / "2" / "policy"

    class Failing(Stages):
        def tasks(self, starts):
            return [
                replace(task, command=[sys.executable, "-c", "raise SystemExit(4)"]) for task in super().tasks(starts)
            ]

    settings = settings_by_arm(study, ["mars"])
    failing = StudyRunner(Failing(study, tmp_path / "out", tmp_path / "out" / "shipped"), settings, FAKE_TRAIN)
    ends = {end.name: end.problem for end in failing.carry_out(runs, 1)}
    assert ends["runs/0.5/mars/0"] is None
    assert "exit code 4" in ends["cold_starts/0.5/2"]
    assert "not started, because" in ends["runs/0.5/mars/1"]


def test_no_more_processes_than_jobs_and_the_order_of_starts(tmp_path):
    """Each task notes when it starts and ends; with two jobs at most two are between the two at once."""
    notes = tmp_path / "notes"
    code = "import sys; f = open(sys.argv[1], 'a'); f.write('+'); f.flush(); f.write('-'); f.close()"
    tasks = [Task(str(i), [sys.executable, "-c", code, str(notes)], tmp_path / f"{i}.log") for i in range(5)]
    started = []
    tasks = [replace(task, before=lambda name=task.name: started.append(name)) for task in tasks]
    assert {ended.task.name for ended in run_tasks(tasks, 2, tmp_path)} == set("01234")
    assert started == list("01234")
    depth = [notes.read_text()[:end].count("+") - notes.read_text()[:end].count("-") for end in range(1, 11)]
    assert max(depth) <= 2
    assert depth[-1] == 0


def test_processes_have_one_thread_and_their_log_shows_no_control_characters(tmp_path):
    code = "import os; print(os.environ['OMP_NUM_THREADS'], chr(27) + '[2J')"
    task = Task("a", [sys.executable, "-c", code], tmp_path / "a.log")
    (ended,) = run_tasks([task], 1, tmp_path)
    assert ended.code == 0
    assert last_lines(task.log) == "1 \\x1b[2J"


def test_a_record_is_read_back(tmp_path):
    study, runs = one_seed(tmp_path, mars=MARS)
    list(runner(study, tmp_path / "out").carry_out(runs, 1))
    record = read_record(tmp_path / "out" / runs[0].name)
    assert record is not None
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
