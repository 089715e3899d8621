"""recipe/effect: the command line, from the plan to the report; a program stands in for mars.main."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from mars.errors import ConfigError
from recipe.effect import command_line
from recipe.effect.record import read_record
from recipe.effect.runs import StudyRunner
from recipe.effect.stages import Stages
from recipe.effect.study import load_study
from tests.shipped.recipes.effect_study import FAKE_TRAIN, GRPO, MARS, ROOT, runner, study_file

# `python -m recipe.effect.run` with the other program, and with cold starts that are there.
PROGRAM = f"""
import sys
from functools import partial
from pathlib import Path
from mars import interrupts
interrupts.end_at_once()
from mars.process import run_command
from recipe.effect import command_line
command_line.StudyRunner = partial(command_line.StudyRunner, train={FAKE_TRAIN!r})
command_line.Stages = partial(command_line.Stages, shipped=Path(sys.argv[1]) / "shipped")
run_command(lambda: command_line.run_app(sys.argv[1:]))
"""


@pytest.fixture
def study(tmp_path):
    """Its file and its folder."""

    def made(*seeds, **arms):
        file = study_file(tmp_path, dials=[0.5], seeds={0.5: ",".join(map(str, seeds))}, arms={"grpo": GRPO, **arms})
        runner(load_study(file), tmp_path / "out")
        return file, tmp_path / "out"

    return made


@pytest.fixture
def called(monkeypatch, capsys):
    """The command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(command_line, "StudyRunner", partial(StudyRunner, train=FAKE_TRAIN))

    def call(file, out, *options):
        monkeypatch.setattr(command_line, "Stages", partial(Stages, shipped=out / "shipped"))
        code = command_line.run_app([str(out), "--study", str(file), "--jobs", "2", *options], standalone_mode=False)
        return (code or 0, *capsys.readouterr())

    return call


def test_the_plan_lists_runs_and_time_and_starts_nothing(study, called):
    file, out = study(1, 2, mars=MARS)
    code, stdout, _ = called(file, out, "--plan", "--arms", "mars", "--seeds", "2")
    assert code == 0
    assert "runs/0.5/mars/2  cold_starts/0.5/3  10" in stdout
    assert "1 of 1 runs and 0 stages before them are missing: about 1 min with 2 at a time" in stdout
    assert not (out / "study.yaml").exists()
    assert not (out / "runs").exists()


def test_a_seed_an_arm_or_a_dial_that_the_study_lacks_is_refused(study, called):
    file, out = study(1, mars=MARS)
    for option, value in (("--seeds", "7"), ("--arms", "mras"), ("--dials", "0.9")):
        with pytest.raises(ConfigError, match=f"^{option}: not in the study; got {value}"):
            called(file, out, option, value)


def test_a_dial_is_given_as_it_is_written_in_the_study(study, called):
    file, out = study(1, mars=MARS)
    for dial in ("0.5", "0.50", ".5"):
        assert "2 of 2 runs" in called(file, out, "--plan", "--dials", dial)[1]


def test_a_file_in_the_place_of_the_folder_is_refused(study, called, tmp_path):
    file, _ = study(1, mars=MARS)
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(ConfigError, match=r"^OUT: not a folder; got .*taken; give a folder"):
        called(file, taken)
    with pytest.raises(ConfigError, match=r"^OUT: not a folder"):
        command_line.report_app([str(taken)], standalone_mode=False)


def test_a_changed_study_is_refused_before_anything_is_planned_or_run(study, called):
    file, out = study(1, mars=MARS)
    assert called(file, out)[0] == 0
    file.write_text(file.read_text().replace("title: MARS", "title: ours"))
    for options in (["--plan"], []):
        with pytest.raises(ConfigError, match=r"^arms\.mars\.title: decided before .*it was 'MARS'; got 'ours'"):
            called(file, out, *options)


def test_a_study_to_its_report_with_a_failed_run_and_a_refused_one(study, called):
    file, out = study(1, mars=MARS, fails=GRPO, wrong=MARS)
    code, stdout, stderr = called(file, out)
    assert code == 1
    assert "runs/0.5/fails/1: exit code 3" in stderr
    assert "runs/0.5/wrong/1: rollouts per prompt" in stderr
    assert "2 runs or stages failed or are refused" in stderr
    assert f"report: {out}/report.html" in stdout
    page = (out / "report.html").read_text()
    for text in ("1 runs are not finished", "runs/0.5/fails/1", "Refused", "runs/0.5/wrong/1: rollouts per prompt"):
        assert text in page
    code, stdout, _ = called(file, out, "--plan")
    assert (code, "1 of 4 runs" in stdout) == (0, True)


def test_ctrl_c_ends_the_runs_and_the_same_command_goes_on(study, called):
    file, out = study(1, waits=MARS)
    folder = out / "runs" / "0.5" / "waits" / "1"
    log, options = folder / "console.log", ["--arms", "waits"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), "--study", str(file), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and not (log.exists() and "waiting" in log.read_text()):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "interrupted by SIGINT; give the same command again to go on with the study" in stderr
    record = read_record(folder)
    assert record is not None
    assert record.state == "started"
    assert called(file, out, *options)[0] == 0
    assert (folder / "calls.txt").read_text().split() == ["started", "resumed"]
