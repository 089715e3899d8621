"""`mars quickstart`: the stages that run, those that are reused, and what happens when one fails."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import typer

from mars.cli import quickstart as module
from mars.cli.app import app
from mars.cli.quickstart import quickstart
from mars.errors import BusyError, ConfigError
from mars.run_dir.lock import LOCK_FILE, RunLock
from mars.run_dir.processes import process_id


def folder_of(arguments: list[str]) -> Path | None:
    """Where a command writes, by its arguments."""
    made = next((text for text in arguments if text.startswith("run.dir=")), None)
    if "mars.main" in arguments or "mars.sft" in arguments:
        return Path(made.partition("=")[2].strip("'").replace("\\'", "'"))
    return Path(arguments[4]) if arguments[2:4] == ["data", "synth"] else None


@pytest.fixture
def commands(monkeypatch):
    """Commands that leave what the next ones read, instead of training. `commands.fails` names one that ends with 7."""

    class Commands(list):
        fails = "nothing"

        def names(self) -> list[str]:
            return [" ".join(text for text in line[1:5] if "/" not in text and "=" not in text) for line in self]

    commands = Commands()

    def run(arguments):
        commands.append(list(arguments))
        folder = folder_of(arguments)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok="run.resume=true" in arguments)
            (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 12}\n')
        if "eval" in arguments:
            out = Path(arguments[arguments.index("--out") + 1])
            out.parent.mkdir()
            out.write_text("{}")
        if commands.fails in arguments:
            raise typer.Exit(7)

    monkeypatch.setattr(module, "_run", run)
    return commands


SCENES = "mars.cli.main data synth"
CONVERT = "mars.cli.main data convert llvip"
FIRST = [SCENES, CONVERT, SCENES, "mars.sft", "mars.main", "mars.cli.main eval run", "mars.cli.main report"]


def test_a_first_run_makes_everything(commands, tmp_path, capsys):
    quickstart(tmp_path / "it's here", ["anchor=none", "run.num_steps=12"])
    out = tmp_path / "it's here"
    assert commands.names() == FIRST
    train, evaluate = commands[4], commands[5]
    home = str(out).replace("'", "\\'")
    assert train[2:] == [
        "experiment=quickstart",
        f"run.dir='{home}/run'",
        f"model.path='{home}/cold_start/policy'",
        f"data.train_files=['{home}/data/train.parquet']",
        f"data.eval_files=['{home}/data/test.parquet']",
        "anchor=none",
        "run.num_steps=12",
    ]
    assert evaluate[4:6] == [f"{out}/run/policy", f"{out}/data/test.parquet"]
    assert evaluate[evaluate.index("--step") + 1] == "12", "the last step of the metrics"
    assert evaluate.index("anchor=none") < evaluate.index("cluster.kind=local"), "one process evaluates"
    said = [line.rpartition(" (")[0] for line in capsys.readouterr().out.splitlines() if line]
    assert said == [
        "== synthetic visible + infrared scenes",
        "== tiny model",
        "== supervised cold start",
        "== MARS-GRPO",
        "== evaluation of the trained policy, in a fresh process",
        "== result",
    ]


def test_a_second_run_reuses_all_parts(commands, tmp_path, capsys):
    quickstart(tmp_path, [])
    commands.clear()
    capsys.readouterr()
    quickstart(tmp_path, [])
    assert commands.names() == ["mars.cli.main report"]
    assert capsys.readouterr().out.count(": already done (0 s)\n") == 4


def test_a_run_with_other_settings_leaves_the_earlier_one(commands, tmp_path, capsys):
    for steps in (1, 2, 3):
        commands.clear()
        quickstart(tmp_path, [f"run.num_steps={steps}"])
    assert commands.names() == FIRST[4:]
    assert f"the earlier run is now {tmp_path}/run.2\n" in capsys.readouterr().out
    assert all((tmp_path / name / "metrics.jsonl").exists() for name in ("run", "run.1", "run.2"))


def test_an_interrupted_training_goes_on_when_the_command_is_repeated(commands, tmp_path, capsys):
    commands.fails = "mars.main"
    with pytest.raises(typer.Exit):
        quickstart(tmp_path, ["anchor=none"])
    (tmp_path / "run" / "checkpoint").touch()
    commands.fails = "nothing"
    commands.clear()
    quickstart(tmp_path, ["anchor=none"])
    assert commands.names() == FIRST[4:]
    assert commands[0][-2:] == ["anchor=none", "run.resume=true"]
    assert (tmp_path / "run" / "checkpoint").exists()
    assert "MARS-GRPO, from the newest checkpoint of the interrupted run" in capsys.readouterr().out


def test_an_interrupted_training_is_kept_when_the_next_has_other_settings(commands, tmp_path, capsys):
    commands.fails = "mars.main"
    with pytest.raises(typer.Exit):
        quickstart(tmp_path, [])
    (tmp_path / "run" / "checkpoint").touch()
    commands.fails = "nothing"
    quickstart(tmp_path, ["anchor=none"])
    assert (tmp_path / "run.1" / "checkpoint").exists()
    assert "run.resume=true" not in commands[-3]
    assert f"the earlier run is now {tmp_path}/run.1\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cold_start", "run"])
def test_a_folder_in_which_another_process_trains_is_refused_as_it_is(commands, tmp_path, name):
    quickstart(tmp_path, [])
    commands.clear()
    parent = process_id(psutil.Process(os.getppid()))
    with RunLock(tmp_path / name) as lock:
        lock.take()
        (tmp_path / name / LOCK_FILE).write_text(json.dumps(asdict(parent)))
        with pytest.raises(BusyError, match=f"process {parent.pid} on .* is writing to {tmp_path}/{name}"):
            quickstart(tmp_path, ["anchor=none"])
    assert commands == []
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run.1").exists()


@pytest.mark.parametrize("given", ["run.resume=true", "run.dir=x", "+run.resume=false"])
def test_what_the_quick_start_sets_itself_is_refused(commands, tmp_path, given):
    with pytest.raises(ConfigError, match=rf"^run\.\w+: `mars quickstart` sets it itself; got {re.escape(given)}; "):
        quickstart(tmp_path, [given])
    assert commands == []


@pytest.mark.parametrize(("fails", "left"), [("mars.sft", FIRST[3:]), ("mars.main", FIRST[4:]), ("convert", FIRST)])
def test_a_stage_that_failed_is_made_again(commands, tmp_path, fails, left):
    commands.fails = fails
    with pytest.raises(typer.Exit) as ended:
        quickstart(tmp_path, [])
    assert ended.value.exit_code == 7
    commands.fails = "nothing"
    commands.clear()
    quickstart(tmp_path, [])
    assert commands.names() == left


def test_the_folder_is_that_of_the_option_or_of_the_environment(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module, "quickstart", lambda folder, overrides: asked.append((folder, overrides)))
    monkeypatch.chdir(tmp_path)

    def mars(*arguments: str) -> None:
        app(["quickstart", *arguments], standalone_mode=False)

    mars("anchor=none")
    monkeypatch.setenv("QUICKSTART_DIR", "/of/environment")
    mars()
    mars("--dir", "mine")
    assert asked == [(Path("runs/quickstart"), ["anchor=none"]), (Path("/of/environment"), []), (Path("mine"), [])]


@pytest.mark.parametrize(("code", "ended_with"), [("raise SystemExit(4)", 4), ("os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_of_a_command_is_that_of_the_quick_start(code, ended_with):
    with pytest.raises(typer.Exit) as ended:
        module._run(["-c", f"import os; {code}"])
    assert ended.value.exit_code == ended_with


def test_commands_run_offline_on_one_thread(tmp_path):
    module._run(["-c", f"import json, os; json.dump(dict(os.environ), open({str(tmp_path / 'env')!r}, 'w'))"])
    environment = json.loads((tmp_path / "env").read_text())
    assert (environment["OMP_NUM_THREADS"], environment["HF_HUB_OFFLINE"]) == ("1", "1")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^--dir: cannot write .*file/x: .*; give another folder$"):
        quickstart(tmp_path / "file" / "x", [])


def test_commands_do_not_import_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mars").mkdir()
    (tmp_path / "mars" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    module._run(["-c", "import mars"])  # raises typer.Exit if the command fails
