"""Which run directories a run refuses before it reads rows, and a dry run too, which makes nothing."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from mars.checkpoint.entry import check_enterable
from mars.config.load import load_config
from mars.errors import BusyError, ConfigError, SetupError
from mars.job import check_run_dir
from mars.run_dir.lock import LOCK_FILE, RunLock
from mars.run_dir.processes import process_id

NEW = ("model.path=/m", "data.train_files=[/d/rows.jsonl]")


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def unwritable(monkeypatch, tmp_path):
    """A folder that refuses files; to root too, whom permissions do not stop."""
    folder, access = tmp_path / "locked", os.access
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    return folder


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (lambda at: at.write_text(""), "x", "run.dir: want a folder; got .*/x, and .*/x is a file; remove it, or give"),
        (lambda at: at.write_text(""), "x/runs/1", "run.dir: .*/x/runs/1: cannot be written .Not a directory."),
        (lambda at: at.symlink_to(at.parent / "gone"), "x", "run.dir: want a folder; got .*/x is a link to nothing"),
        (lambda at: at.symlink_to(at.parent / "gone"), "x/1", "run.dir: want a folder; got .*/x is a link to nothing"),
        (lambda at: at.symlink_to(at), "x/1", "run.dir: .*/x/1: cannot be written .Too many levels of symbolic links"),
        (lambda at: None, "y" * 300, "run.dir: .*: cannot be written .File name too long."),
    ],
)
def test_what_can_be_no_folder_is_refused(mars, tmp_path, make, path, message):
    make(tmp_path / "x")
    before = files_below(tmp_path)
    with pytest.raises(SetupError, match=message):
        check_enterable(tmp_path / path, resume=False)
    for command in ("train", "sft"):
        result = mars(command, *NEW, f"run.dir={tmp_path / path}", "--dry-run")
        assert (result.returncode, result.stderr.startswith("run.dir: ")) == (4, True)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("inside", [".", "runs/deep/1"])
def test_a_folder_that_refuses_files_is_refused(mars, unwritable, inside):
    run_dir = unwritable / inside
    with pytest.raises(SetupError, match=f"run.dir: cannot be written, because .* in {unwritable}; got"):
        check_enterable(run_dir, resume=False)
    result = mars("train", *NEW, f"run.dir={run_dir}", "--dry-run")
    assert (result.returncode, "give another path, or change the permissions" in result.stderr) == (4, True)


@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_that_a_run_can_have_is_accepted_and_not_made(tmp_path, existing):
    run_dir = tmp_path / "runs/1"
    if existing:
        run_dir.mkdir(parents=True)
        (run_dir / "notes.txt").write_text("mine")
    before = files_below(tmp_path)
    check_enterable(run_dir, resume=False)
    check_enterable(run_dir, resume=True)
    assert files_below(tmp_path) == before


def test_a_folder_with_another_run_is_refused_unless_that_run_is_resumed(mars, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"run.dir: .* holds the metrics of another run"):
        check_enterable(tmp_path, resume=False)
    check_enterable(tmp_path, resume=True)
    result = mars("sft", *NEW, f"run.dir={tmp_path}")
    assert (result.returncode, "holds the metrics of another run" in result.stderr) == (2, True)
    assert files_below(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize("kind", ["train", "sft"])
def test_a_dry_run_only_warns_of_another_run_and_goes_on(tmp_path, caplog, kind):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    check_run_dir(load_config(kind, [*NEW, f"run.dir='{tmp_path}'"], []))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the run would not start: run.dir: " in caplog.text
    assert "holds the metrics of another run" in caplog.text


def test_checkpoints_that_are_no_folder_are_refused(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(SetupError, match=r"run.dir: want a folder; got .*/checkpoints"):
        check_enterable(tmp_path, resume=True)


def test_a_folder_in_which_another_process_writes_is_busy(mars, tmp_path):
    code = (
        "import sys, pathlib; from mars.run_dir.lock import RunLock\n"
        "with RunLock(pathlib.Path(sys.argv[1])) as lock:\n"
        "    lock.take(); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(BusyError, match=f"run.dir: process {other.pid} on .* is writing to {tmp_path}"):
            check_enterable(tmp_path, resume=False)
        assert mars("train", *NEW, f"run.dir={tmp_path}", "--dry-run").returncode == 73
        other.stdin.close()
    check_enterable(tmp_path, resume=False)


def test_the_own_lock_is_no_other_process(tmp_path):
    with RunLock(tmp_path) as lock:
        lock.take()
        check_enterable(tmp_path, resume=False)
        assert json.loads((tmp_path / LOCK_FILE).read_text()) == asdict(process_id(psutil.Process()))


def test_a_dry_run_names_settings_that_cannot_change_in_a_resumed_run(mars, tmp_path):
    import yaml

    from mars.config.load import load_config

    saved = load_config("train", [*NEW, f"run.dir={tmp_path}"], [])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved.model_dump(mode="json")))
    result = mars("train", *NEW, f"run.dir={tmp_path}", "run.resume=true", "run.seed=7", "--dry-run")
    assert (result.returncode, "run.seed: 0 -> 7" in result.stderr) == (2, True)
