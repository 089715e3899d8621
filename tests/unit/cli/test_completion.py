"""The completion of shells: what they ask of `mars` on TAB, and what it answers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mars.cli.completion import choices


@pytest.fixture
def completed(mars, monkeypatch, tmp_path):
    """words, the last one unfinished -> the words that bash offers. In a folder with runs."""
    monkeypatch.chdir(tmp_path)
    for run in ("runs/first", "runs/group/second", "elsewhere/third"):
        (tmp_path / run).mkdir(parents=True)
        for file in ("config.yaml", "metrics.jsonl"):
            (tmp_path / run / file).touch()
    (tmp_path / "elsewhere" / "no_run").mkdir()

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_MARS_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(("mars", *words)))  # as the script of bash joins them
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        result = mars()
        assert result.returncode == 0, result.stderr
        return [line for line in result.stdout.splitlines() if line]

    return complete


def test_commands_and_options(completed):
    assert completed("re") == ["resume", "report", "recipe", "reward"]
    assert completed("data", "convert", "n") == ["nuscenes"]
    assert completed("eval", "score", "answers", "--tr") == ["--truth-size"]
    assert completed("eval", "infer", "m", "q", "o", "--views", "m") == ["multi", "mono"]


@pytest.mark.parametrize("command", [("resume",), ("runs", "show"), ("ckpt", "ls"), ("report",), ("config", "show")])
def test_run_directories(completed, command):
    assert completed(*command, "runs/") == ["runs/first", "runs/group/second"]
    assert completed(*command, "runs/g") == ["runs/group/second"]
    assert completed(*command, "elsewhere/") == ["elsewhere/third"]
    assert completed(*command, "nowhere/") == []


def test_the_second_run_to_compare_is_completed_too(completed):
    assert completed("runs", "diff", "runs/first", "runs/g") == ["runs/group/second"]


def test_settings(completed):
    assert completed("config", "find", "rollout.top") == ["rollout.top_p", "rollout.top_k"]
    assert completed("config", "diff", "quickst") == ["quickstart", "quickstart_sft"]
    assert completed("config", "show", "anchor=m") == ["anchor=mono"]
    assert completed("train", "algorithm=d") == ["algorithm=dapo", "algorithm=dr_grpo"]
    assert completed("resume", "runs/first", "anchor=n") == ["anchor=none"]
    assert completed("eval", "run", "model", "data", "reward=v") == ["reward=vqa"]


@pytest.mark.parametrize("command", ["train", "sft"])
def test_options_of_the_trainings(completed, command):
    assert completed(command, "--") == ["--config-dir", "--cfg", "--dry-run", "--help"]
    assert completed(command, "--dry-run", "--c") == ["--config-dir", "--cfg"]
    assert completed(command, "--cfg", "") == completed(command, "--cfg", "=") == ["job"]
    assert completed(command, "--config-dir", "") == completed(command, "--config-dir", "=") == []  # bash offers files


def test_choices_in_a_folder_of_ones_own(completed, tmp_path):
    (tmp_path / "own" / "anchor").mkdir(parents=True)
    (tmp_path / "own" / "anchor" / "mine.yaml").touch()
    for option in (("--config-dir", "own"), ("--config-dir", "=", "own"), ("--config-dir=own",)):
        assert completed("train", *option, "anchor=mi") == ["anchor=mine"]
    assert completed("train", "--config-dir", "nowhere", "anchor=mi") == []


def test_settings_and_the_values_of_those_that_take_one_of_a_few(completed):
    assert completed("train", "rollout.eng") == [
        f"rollout.engine={engine}" for engine in ("vllm", "hf", "scripted", "scripted_full_length")
    ]
    assert completed("train", "rollout.engine", "=", "h") == ["hf"]
    assert completed("train", "rollout.engine=h") == ["rollout.engine=hf"]  # zsh and fish do not split it
    assert completed("resume", "runs/first", "run.res") == ["run.resume=true", "run.resume=false"]
    assert completed("config", "show", "run.res") == ["run.resume=true", "run.resume=false"]
    assert completed("train", "sft.batch_s") == []
    assert completed("sft", "sft.batch_s") == ["sft.batch_size=", "sft.batch_size=value"]
    assert completed("train", "run.seed", "=", "") == []
    assert "run.seed=" not in completed("train", "")  # the groups alone, so that they are seen


def test_behind_the_equals_sign_nothing_is_typed_yet(completed):
    """bash asks for a word that begins with "=", and inserts what it gets behind the sign."""
    assert completed("train", "anchor", "=") == completed("train", "anchor", "=", "")
    assert {"mono", "none"} < set(completed("train", "run.seed", "=", "1", "anchor", "="))
    assert "quickstart_sft" in completed("sft", "experiment", "=")
    assert completed("config", "show", "run.resume", "=") == ["true", "false"]


def test_bash_splits_a_choice_at_the_equals_sign(completed):
    """It replaces only what stands behind the sign."""
    assert completed("train", "run.seed", "=", "1", "anchor", "=", "m") == ["mono"]
    assert completed("config", "show", "experiment", "=", "quick") == ["quickstart", "quickstart_sft"]
    assert choices(["anchor", "="], "f") == ["forced_source"]
    assert choices(["run.seed", "="], "f") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_real_bash_is_offered_what_follows_the_equals_sign(mars, monkeypatch, tmp_path):
    """With the words into which bash splits "mars train anchor="; the printed script asks a `mars` of its own."""
    monkeypatch.setenv("_MARS_COMPLETE", "source_bash")
    script = mars().stdout
    (tmp_path / "mars").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mars.cli.main "$@"\n')
    (tmp_path / "mars").chmod(0o755)
    asked = "COMP_WORDS=(mars train anchor =); COMP_CWORD=3; _mars_completion mars; printf '%s\\n' \"${COMPREPLY[@]}\""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    shown = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True, timeout=60)
    assert {"mono", "none"} < set(shown.stdout.split()), shown.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed(mars, monkeypatch, shell):
    monkeypatch.setenv("_MARS_COMPLETE", f"source_{shell}")
    result = mars()
    assert result.returncode == 0
    assert f"_MARS_COMPLETE=complete_{shell}" in result.stdout
