"""What README lets a newcomer type, with a tiny model in the place of the real one."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mars.config.load import load_config
from mars.main import main
from tests.shipped.test_docs import block_after

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m mars\.main (.*\[rows\.jsonl\].*)$", README, re.MULTILINE)


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A folder with the rows of the README, images for them, and its reward; the current folder."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(block_after("own-data"), encoding="utf-8")
    Path("my_reward.py").write_text(block_after("own-reward"), encoding="utf-8")
    lines = [json.loads(line) for line in block_after("own-data").splitlines()]
    for name in (name for line in lines for name in line["images"]):
        Image.new("RGB", (56, 56)).save(name)
    return lines


def test_the_rows_of_the_readme_are_usable(tiny, newcomer):
    from mars.inputs import load_inputs

    given = ["reward=vqa", f"model.path='{tiny}'", "data.train_files=[rows.jsonl]", "data.max_image_pixels=12544"]
    train = load_inputs(load_config("train", given, []), with_training_set=True).train
    assert len(train.prompts) == len(newcomer) == 5
    assert train.prompts[4].extra_info["choices"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_training_on_the_rows_of_the_readme_would_start(tiny, newcomer, command):
    words = [f"model.path='{tiny}'" if word.startswith("model.path=") else word for word in shlex.split(command)]
    assert main([*words, "data.max_image_pixels=12544", "--dry-run"]) == 0


def test_there_are_two_such_commands():
    assert len(COMMANDS) == 2
