"""`mars data build`: another process writes the same bytes, and `mars data check` finds nothing wrong with the rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mars.cli.app import app
from tests.integration.workshop import ROOT

SMALL = ["data.min_image_pixels=784", "data.max_image_pixels=12544"]
PATCHES = f"reward.function={ROOT}/recipe/jigsaw_r1/functions.py:patches"
SPAN = f"reward.function={ROOT}/recipe/vicrit/functions.py:span"


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_another_process_writes_the_same_bytes(workshop, tmp_path):
    given = ["data", "build", "contrastive", str(workshop.data / "train.parquet")]
    app([*given, str(tmp_path / "here"), "--seed", "5"], standalone_mode=False)
    elsewhere = os.environ | {"PYTHONHASHSEED": "7"}
    call = [sys.executable, "-m", "mars.cli.main", *given, str(tmp_path / "there"), "--seed", "5"]
    subprocess.run(call, check=True, env=elsewhere, cwd=tmp_path, capture_output=True)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
    assert len(digests(tmp_path / "here")) == 12 * 2 + 2


@pytest.mark.parametrize(
    ("task", "reward"),
    [
        (["jigsaw", "--sources", "all"], ["reward=vqa"]),
        (["jigsaw", "--pieces"], [PATCHES, "data.template=vqa"]),
        (["jigsaw", "--question", "pair", "--grid", "3x3"], ["reward=vqa"]),
        (["rotation", "--sources", "all"], ["reward=vqa"]),
        (["position", "--sources", "cross"], ["reward=vqa"]),
        (["contrastive"], ["reward=vqa"]),
        (["perturb", "--change", "distractor"], []),
        (["perturb", "--change", "mixup", "--size", "64"], []),
        (["perturb", "--change", "rotation", "--sources", "one"], []),
        (["caption_swap"], [SPAN, "data.template=vqa"]),
        (["caption_swap"], ["reward=vqa"]),
    ],
    ids=lambda words: "-".join(word.rpartition("/")[2] for word in words),
)
def test_a_check_finds_nothing(workshop, tmp_path, monkeypatch, capsys, task, reward):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, more = workshop.data / "train.parquet", []
    if task[0] == "caption_swap":
        with contextlib.chdir(tmp_path):
            describe = [sys.executable, ROOT / "recipe" / "vicrit" / "describe.py", workshop.data, "texts.jsonl"]
            subprocess.run(describe, check=True)
        source, more = tmp_path / "texts.jsonl", ["--image-root", str(workshop.data)]
    name, *options = task
    app(["data", "build", name, str(source), str(tmp_path), "--seed", "1", *more, *options], standalone_mode=False)
    metadata = json.loads((tmp_path / "dataset.json").read_text())
    rows = metadata["splits"]["train"]["rows"]
    assert (rows, metadata["splits"]["train"]["dropped"]) == (12, {})
    checked = ["data", "check", str(tmp_path / "train.parquet"), "--model", str(workshop.model), *reward, *SMALL]
    app(checked, standalone_mode=False)  # raises DataError for a problem
    assert "12 of 12 usable, 0 with problems, 0 overlong" in capsys.readouterr().out
