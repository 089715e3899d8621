"""Which files of a user's folder a job takes along."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from mars.cluster import job_package
from mars.cluster.job_package import files_of_job, write_package
from mars.errors import ConfigError


def write(folder: Path, *names: str, size: int = 1) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def taken(folder: Path, *excludes: str) -> set[str]:
    return {path.as_posix() for path in files_of_job(folder, excludes)}


def test_code_and_templates_are_taken_and_results_data_and_secrets_are_not(tmp_path):
    wanted = {"my_reward.py", "lib/helper.py", "lib/table.json", "prompt.jinja", "lib/mars/__init__.py", "lib/runs.py"}
    write(tmp_path, *wanted)
    write(tmp_path, ".git/config", ".env", ".venv/bin/python", "lib/.netrc", "venv/pyvenv.cfg")
    write(tmp_path, "runs/mars/metrics.jsonl", "wandb/run", "lib/__pycache__/helper.pyc", "x.egg-info/PKG-INFO")
    write(tmp_path, "data/train.parquet", "model/model.safetensors", "archive.tar.gz")
    write(tmp_path, "mars/__init__.py", "mars/step.py")
    (tmp_path / "elsewhere").symlink_to("/usr")
    assert taken(tmp_path) == wanted


def test_a_folder_named_mars_that_is_not_the_package_is_taken(tmp_path):
    write(tmp_path, "mars/rewards.py")
    assert taken(tmp_path) == {"mars/rewards.py"}


def test_patterns_leave_out_names_and_paths(tmp_path):
    write(tmp_path, "a.py", "notes/a.md", "notes/b.py", "deep/notes/c.py", "a.png")
    assert taken(tmp_path, "*.png", "notes/*") == {"a.py", "deep/notes/c.py"}
    assert taken(tmp_path, "notes", "*.png") == {"a.py"}


def test_too_many_bytes_are_refused_with_the_largest_files(tmp_path, monkeypatch):
    monkeypatch.setattr(job_package, "_MAX_BYTES", 2**20)
    write(tmp_path, "small.py")
    write(tmp_path, "images/big.png", size=2**20)
    with pytest.raises(ConfigError, match=r"images/big\.png \(1\.0 MiB\), small\.py") as refusal:
        files_of_job(tmp_path, ())
    assert "--exclude" in str(refusal.value)
    assert taken(tmp_path, "*.png") == {"small.py"}


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(job_package, "_MAX_FILES", 2)
    write(tmp_path, "a.py", "b.py")
    assert len(files_of_job(tmp_path, ())) == 2
    write(tmp_path, "c.py")
    with pytest.raises(ConfigError, match="more than 2 files"):
        files_of_job(tmp_path, ())


def test_equal_files_are_an_equal_package_that_only_the_user_can_read(tmp_path):
    write(tmp_path / "user", "a.py", "lib/b.py")
    (tmp_path / "user" / "a.py").chmod(0o755)
    packages = []
    for name in ("one.zip", "two.zip"):
        write_package(tmp_path / name, tmp_path / "user", [Path("a.py"), Path("lib/b.py")], {".job.json": "{}"})
        packages.append((tmp_path / name).read_bytes())
        os.utime(tmp_path / "user" / "a.py", (1e9, 1e9))
    assert packages[0] == packages[1]
    with zipfile.ZipFile(tmp_path / "one.zip") as package:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in package.infolist()}
        assert modes == {"a.py": 0o700, "lib/b.py": 0o600, ".job.json": 0o600}
        assert package.read("lib/b.py") == b"x"


def test_files_that_cannot_be_sent_are_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "env" / "lib").mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "env" / "lib" / "x.py").touch()
    assert files_of_job(tmp_path, []) == [], "a link to itself is no file, and an environment is not sent"
    odd = os.fsencode(tmp_path) + b"/\xff.py"
    os.close(os.open(odd, os.O_CREAT))
    with pytest.raises(ConfigError, match=r"^\\xff\.py: it cannot be sent to the cluster \(its name is not UTF-8\)"):
        files_of_job(tmp_path, [])
    assert files_of_job(tmp_path, ["*.py"]) == []
