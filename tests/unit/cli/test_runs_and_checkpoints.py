"""`mars runs`, `mars ckpt` and `mars resume` on run directories made by hand."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.config.load import load_config
from mars.run_dir.attempt import start_attempt
from mars.run_dir.events import EVENTS_FILE, EventLog
from mars.run_dir.lock import RunLock
from tests.unit.checkpoint.test_catalogue import commit

SETTINGS = ["data.train_files=[rows.parquet]", "rollout=hf", "cluster.device=cpu"]


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """name, settings, steps -> a run directory with rows, checkpoints and an attempt."""
    monkeypatch.setattr("mars.run_dir.attempt.machine", dict)

    def make(name: str, *overrides: str, steps: int = 3) -> Path:
        run_dir = tmp_path / "runs" / name
        run_dir.mkdir(parents=True)
        config = load_config("train", [*SETTINGS, f"run.name={name}", "run.num_steps=4", *overrides], [])
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
        if not Path.cwd().is_relative_to(tmp_path):
            monkeypatch.chdir(tmp_path)
        Path("rows.parquet").touch()
        attempt = start_attempt(run_dir, overrides, {}, resumes=False)
        events = EventLog(run_dir / EVENTS_FILE)
        events.log("started", 0, last_step=4, attempt=attempt.name)
        catalogue = Catalogue(run_dir / CHECKPOINTS_FOLDER, events)
        with (run_dir / "metrics.jsonl").open("w") as rows:
            for step in range(1, steps + 1):
                row = {"critic/score/mean": step / 10} | ({"eval/multi/mean": 0.5 - step / 10} if step < 3 else {})
                rows.write(json.dumps(row | {"step": step}) + "\n")
                commit(catalogue, step, row)
        return run_dir

    return make


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


# --- runs


def test_runs_are_listed_with_their_state(mars, make_run, tmp_path):
    killed, done, busy = make_run("killed"), make_run("deep/done", "run.seed=1", steps=4), make_run("busy", steps=1)
    EventLog(done / EVENTS_FILE).log("finished", 4)
    os.utime(killed / "metrics.jsonl", (0, 0))
    os.utime(killed / EVENTS_FILE, (0, 0))
    with RunLock(busy) as lock:
        lock.take()
        found = json.loads(mars("runs", "ls", str(tmp_path / "runs"), "--json").stdout)
        shown = mars("runs", "ls", str(tmp_path / "runs")).stdout.splitlines()
    assert found[-1] == {
        "name": "killed", "folder": str(killed), "state": "interrupted", "step": 3, "last_step": 4, "score": 0.3,
        "evaluation": 0.3, "age_s": found[-1]["age_s"], "notes": [],
    }  # fmt: skip
    assert {run["name"]: run["state"] for run in found} == {
        "killed": "interrupted", "deep/done": "finished", "busy": "running",
    }  # fmt: skip
    assert shown[0].split() == ["name", "state", "step", "score", "evaluation", "age", "notes", "folder"]
    assert shown[-1].split()[:5] == ["killed", "interrupted", "3/4", "0.300", "0.300"]
    assert mars("runs", "ls", str(tmp_path / "none")).returncode == 2


def test_what_is_damaged_is_counted_in_the_list_and_named_for_the_run(mars, make_run):
    run_dir = make_run("damaged")
    (run_dir / "evaluation").mkdir()
    (run_dir / "evaluation" / "after.json").write_text('{"step": 3, broken')
    with (run_dir / EVENTS_FILE).open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00+00:00", "event": "fini')
    heads, row = (line.split() for line in mars("runs", "ls", str(run_dir)).stdout.splitlines())
    assert (heads[-2], row[-2]) == ("notes", "2")
    shown = mars("runs", "show", str(run_dir)).stdout
    assert "  evaluation/after.json: left out, no evaluation result (JSONDecodeError: " in shown
    assert "  events.jsonl: damaged lines that are left out: 1; the run's state may be wrong" in shown


def test_runs_that_cannot_be_read_are_named_and_the_others_are_listed(mars, make_run, monkeypatch):
    make_run("good")
    events = make_run("broken") / "events.jsonl"
    events.unlink()
    events.mkdir()
    make_run("private")
    is_file = Path.is_file

    def refusing(path: Path) -> bool:
        if path.parent.name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refusing)
    listed = mars("runs", "ls", "runs", "--json")
    assert listed.returncode == 0
    assert [run["name"] for run in json.loads(listed.stdout)] == ["good"]
    assert listed.stderr.splitlines() == [
        "left out: runs/broken/events.jsonl: cannot be read (Is a directory)",
        "left out: runs/private/config.yaml: cannot be read (Permission denied)",
    ]
    alone = mars("runs", "ls", "runs/broken")
    assert (alone.returncode, alone.stdout) == (4, "")
    assert "runs/broken/events.jsonl: cannot be used (Is a directory)" in alone.stderr


@pytest.mark.parametrize("made", [Path.touch, lambda path: path.symlink_to(path.name), os.mkfifo])
def test_a_report_of_what_is_no_folder_is_refused(mars, tmp_path, made):
    made(tmp_path / "metrics")
    refused = mars("report", str(tmp_path / "metrics"))
    assert (refused.returncode, refused.stderr) == (
        2,
        f"RUN: want a folder; got {tmp_path / 'metrics'}; give the run.dir of a run\n",
    )


def test_a_run_is_shown_whole(mars, make_run):
    run_dir = make_run("one", "actor.learning_rate=1e-5")
    shown = mars("runs", "show", str(run_dir)).stdout
    for part in ("interrupted", "3 of 4", "attempt_1", "checkpoint_saved", "critic/score/mean"):
        assert part in shown
    assert "actor.warmup_steps" not in shown
    whole = mars("runs", "show", str(run_dir), "--all").stdout
    assert {"settings", *shown.splitlines()} <= set(whole.splitlines())
    assert "actor.warmup_steps" in whole
    run = json.loads(mars("runs", "show", str(run_dir), "--json").stdout)
    assert [c["step"] for c in run["checkpoints"]] == [1, 2, 3]
    assert run["settings"]["actor.learning_rate"] == 1e-5
    assert run["attempts"][0]["overrides"] == ["actor.learning_rate=1e-5"]
    assert mars("runs", "show", str(run_dir.parent)).returncode == 2


def test_the_difference_of_two_runs_is_what_differs(mars, make_run):
    a, b = make_run("a"), make_run("b", "run.seed=5", "reward.functions={llvip: vqa}", steps=2)
    record = json.loads((b / "logs" / "attempt_1" / "attempt.json").read_text())
    record["versions"]["torch"] = "0.1"
    (b / "logs" / "attempt_1" / "attempt.json").write_text(json.dumps(record))
    found = json.loads(mars("runs", "diff", str(a), str(b), "--json").stdout)
    assert found["settings"] == {
        "run.name": {"a": "a", "b": "b"},
        "run.seed": {"a": 0, "b": 5},
        "reward.functions": {"a": {}, "b": {"llvip": "vqa"}},
    }
    assert set(found["versions"]) == {"torch"}
    assert found["metrics"]["step"] == {"a": 3, "b": 2}
    assert found["metrics"]["critic/score/mean"] == {"a": 0.3, "b": 0.2}
    same = mars("runs", "diff", str(a), str(shutil.copytree(a, a.parent / "copy"))).stdout
    assert same.count("the same") == 3


def test_names_with_control_characters_are_escaped(mars, make_run):
    run_dir = make_run("x")
    text = (run_dir / "config.yaml").read_text().replace("name: x", 'name: "\\e[2Jx"')
    (run_dir / "config.yaml").write_text(text)
    for command in (("runs", "ls"), ("runs", "show")):
        out = mars(*command, str(run_dir)).stdout
        assert "\x1b" not in out
        assert "\\x1b[2Jx" in out


# --- ckpt


def test_checkpoints_are_listed_and_verified(mars, make_run):
    run_dir = make_run("run")
    listed = json.loads(mars("ckpt", "ls", str(run_dir), "--json").stdout)
    assert [(entry["step"], entry["bytes"], entry["problem"]) for entry in listed] == [(n, 30, None) for n in (1, 2, 3)]
    assert mars("ckpt", "ls", str(run_dir)).stdout.splitlines()[2].split()[0] == "2"
    assert mars("ckpt", "verify", str(run_dir)).returncode == 0
    flip(run_dir / "checkpoints" / "step_000002" / "trainer" / "shard-1")
    (run_dir / "checkpoints" / "step_000003" / "MANIFEST.json").unlink()
    done = mars("ckpt", "verify", str(run_dir))
    assert done.returncode == 7
    lines = done.stdout.splitlines()
    assert lines[0] == "step 1: every file is as it was written"
    assert "step_000002/trainer/shard-1: its content has changed" in lines[1]
    assert "step_000003/MANIFEST.json: missing" in lines[2]
    assert mars("ckpt", "verify", str(run_dir), "--step", "1").returncode == 0
    found = json.loads(mars("ckpt", "verify", str(run_dir), "--step", "2", "--json").stdout)
    assert found[0]["step"] == 2
    assert "shard-1" in found[0]["problem"]
    unknown = mars("ckpt", "verify", str(run_dir), "--step", "9")
    assert (unknown.returncode, "those of step 1, 2" in unknown.stderr) == (2, True)


def test_pruning_by_an_evaluation_that_no_checkpoint_has_names_the_settings(mars, make_run, monkeypatch):
    entries = [{"metrics": {"reward/format/mean": 0.5, "critic/score/mean": 0.5}}]
    monkeypatch.setattr("mars.cli.ckpt.checkpoint_entries", lambda catalogue: entries)
    done = mars("ckpt", "prune", str(make_run("run")), "--keep-last", "1", "--keep-best", "eval/multi/mean")
    assert done.returncode == 2
    assert "so set evaluation.every, and checkpoint.every to a multiple of it; or give " in done.stderr


def test_pruning_keeps_the_newest_the_best_and_the_last_good_one(mars, make_run):
    run_dir = make_run("run", steps=4)
    steps = Catalogue(run_dir / CHECKPOINTS_FOLDER).steps
    dry = ("ckpt", "prune", str(run_dir), "--keep-last", "1", "--dry-run", "--json")
    assert json.loads(mars(*dry).stdout) == {"removed": [1, 2, 3], "kept": [4], "dry_run": True}
    best = json.loads(mars(*dry, "--keep-best", "eval/multi/mean").stdout)
    assert best["kept"] == [1, 4]
    typo = mars(*dry, "--keep-best", "eval/mult/mean")
    assert (typo.returncode, "got 'eval/mult/mean'; give eval/multi/mean" in typo.stderr) == (2, True)
    for step in (3, 4):
        flip(run_dir / "checkpoints" / f"step_{step:06d}" / "state.json")
    assert mars("ckpt", "prune", str(run_dir), "--keep-last", "1").stdout == "removed: step 1, 3\nkept: step 2, 4\n"
    assert steps() == [2, 4]
    for name in (2, 4):
        flip(run_dir / "checkpoints" / f"step_{name:06d}" / "trainer" / "shard-2")
    mars("ckpt", "prune", str(run_dir), "--keep-last", "1")  # none is good: none is removed
    assert steps() == [2, 4]


def test_a_run_that_trains_is_not_pruned(mars, make_run):
    run_dir = make_run("run")
    with RunLock(run_dir) as lock:
        lock.take()
        done = mars("ckpt", "prune", str(run_dir), "--keep-last", "1")
    assert (done.returncode, str(os.getpid()) in done.stderr) == (73, True)
    assert Catalogue(run_dir / CHECKPOINTS_FOLDER).steps() == [1, 2, 3]


def test_export_refuses_a_full_folder_and_a_damaged_checkpoint(mars, make_run, tmp_path):
    run_dir = make_run("run")
    assert mars("ckpt", "export", str(run_dir), str(run_dir)).returncode == 2
    flip(run_dir / "checkpoints" / "step_000002" / "trainer" / "shard-1")
    done = mars("ckpt", "export", str(run_dir), str(tmp_path / "out"), "--step", "2")
    assert (done.returncode, "trainer/shard-1" in done.stderr) == (7, True)
    assert not (tmp_path / "out").exists()
    assert mars("ckpt", "ls", str(tmp_path)).returncode == 2


def test_a_checkpoint_is_exported_only_inside_of_its_run(mars, make_run, tmp_path):
    inside = make_run("run") / "checkpoints" / "step_000002"
    outside = tmp_path / "step_000002"
    shutil.copytree(inside, outside)
    done = mars("ckpt", "export", str(outside), str(tmp_path / "out"))
    assert (done.returncode, "RUN/checkpoints/step_000002" in done.stderr) == (2, True)
    done = mars("ckpt", "export", str(inside), str(tmp_path / "out"), "--step", "2")
    assert (done.returncode, "is a checkpoint already" in done.stderr) == (2, True)
    flip(inside / "trainer" / "shard-1")
    done = mars("ckpt", "export", str(inside), str(tmp_path / "out"))
    assert (done.returncode, "step_000002/trainer/shard-1" in done.stderr) == (7, True)
    flip(inside / "MANIFEST.json")
    done = mars("ckpt", "export", str(inside), str(tmp_path / "out"))
    assert (done.returncode, "MANIFEST.json" in done.stderr) == (7, True)


def test_only_a_run_with_adapters_exports_them(mars, make_run, tmp_path):
    done = mars("ckpt", "export", str(make_run("run")), str(tmp_path / "out"), "--adapter")
    assert (done.returncode, "--adapter: the run has no LoRA adapters" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


# --- resume


@pytest.fixture
def trained(monkeypatch):
    """What `mars resume` would train: (configuration, overrides, folder)."""
    calls = []
    monkeypatch.setattr("mars.main.train", lambda config, given: calls.append((config, list(given), Path.cwd())))
    return calls


def test_a_run_is_resumed_from_any_folder(mars, make_run, tmp_path, monkeypatch, trained):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    run_dir = make_run("run")
    monkeypatch.chdir(elsewhere)
    assert mars("resume", os.path.relpath(run_dir), "run.num_steps=6").returncode == 0
    config, given, folder = trained[0]
    assert (folder, given) == (home, ["run.num_steps=6"])
    assert (config.run.dir, config.run.resume, config.run.num_steps) == (str(run_dir), True, 6)
    assert config.data.train_files == ["rows.parquet"]


def test_a_folder_that_is_gone_is_said(mars, make_run, tmp_path, monkeypatch, trained):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    run_dir = make_run("run")
    monkeypatch.chdir(tmp_path)
    shutil.move(home / "rows.parquet", tmp_path / "rows.parquet")
    home.rmdir()
    done = mars("resume", str(run_dir))
    assert trained[0][2] == tmp_path
    assert f"WARNING {home}: No such file" in done.stderr


def test_everything_that_is_missing_is_named_at_once(mars, make_run, tmp_path, monkeypatch, trained):
    (home := tmp_path / "home").mkdir()
    (home / "reward.py").touch()
    monkeypatch.chdir(home)
    reference = ("algorithm.kl_coefficient=0.1", f"algorithm.kl_reference={tmp_path}/reference")
    settings = ("model.path=tiny", "data.image_root=images", "reward.function='reward.py:score'", *reference)
    run_dir = make_run("run", *settings, "data.eval_files=[test.jsonl,owner/name@test]")
    done = mars("resume", str(run_dir))
    assert (done.returncode, trained) == (2, [])
    assert done.stderr.splitlines()[1:] == [
        f"  algorithm.kl_reference: {tmp_path}/reference", "  data.eval_files: test.jsonl", "  data.image_root: images",
        f"If it has moved, say where to: mars resume {run_dir} algorithm.kl_reference=NEW data.eval_files=[NEW, ...] "
        "data.image_root=NEW",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(home)
    lines = mars("resume", str(run_dir)).stderr.splitlines()
    gone = {"  model.path: tiny", "  data.train_files: rows.parquet", "  reward.function: reward.py:score"}
    assert gone <= set(lines)
    assert f"The run was started in {home}, which is gone; relative paths now start at {tmp_path}." in lines
    assert trained == []


def test_a_complete_run_says_so_before_its_rows_and_model_are_read(mars, make_run, trained):
    run_dir = make_run("run", steps=4)
    assert (mars("resume", str(run_dir)).returncode, len(trained)) == (0, 1)  # its policy is not saved yet
    EventLog(run_dir / EVENTS_FILE).log("finished", 4)
    done = mars("resume", str(run_dir))
    assert f"the run is complete: step 4 was its last; the policy is in {run_dir}/policy." in done.stderr
    assert (done.returncode, len(trained)) == (0, 1)
    for given in ("run.num_steps=5", "actor.learning_rate=1e-4"):  # the latter: refused settings are to be named
        mars("resume", str(run_dir), given)
    assert len(trained) == 3
    flip(run_dir / "checkpoints" / "step_000004" / "trainer" / "shard-1")
    mars("resume", str(run_dir))
    assert len(trained) == 4


@pytest.mark.parametrize("given", ["run.dir=x", "run.resume=false", "++run.dir=x"])
def test_resume_alone_says_what_is_resumed(mars, make_run, trained, given):
    done = mars("resume", str(make_run("run")), given)
    assert (done.returncode, done.stderr.startswith(given), trained) == (2, True, [])


def test_what_is_no_run_is_not_resumed(mars, tmp_path, trained):
    done = mars("resume", str(tmp_path))
    assert (done.returncode, "no run is here" in done.stderr, trained) == (2, True, [])


def test_a_checkpoint_is_not_resumed_but_its_run_and_the_way_to_go_on_from_it_are_named(mars, make_run, trained):
    run_dir = make_run("run one")
    (checkpoint := run_dir / "checkpoints" / "step_000065").mkdir(parents=True)
    done = mars("resume", str(checkpoint))
    assert (done.returncode, trained) == (2, [])
    assert f"this is a checkpoint of the run {run_dir}; " in done.stderr
    assert f"use `mars resume '{run_dir}'`; to go on from this one, copy the run's folder, remove" in done.stderr
    done = mars("resume", str(checkpoint.parent))
    assert f"{checkpoint.parent}: this is a part of the run {run_dir}; to go on from its newest" in done.stderr
