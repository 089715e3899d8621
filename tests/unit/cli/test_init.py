"""`mars init`: what it writes composes, and its run script starts the training from any folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from mars.cli.init import init
from mars.config.load import load_config
from mars.data.synthetic.scenes import make_scene
from mars.errors import ConfigError

FILES = {
    "README.md",
    "configs/experiment/first.yaml",
    "reward.py",
    "rows.jsonl",
    "run.sh",
    "test_reward.py",
    *(f"images/{source}/{number}.png" for source in ("visible", "infrared") for number in (1, 2, 3)),
}
# Says where it runs and what it gets; "makes" the model; has mars, as `python -c 'import mars'` shows.
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
[ "$4" = synth ] && mkdir "$5"
printf '%s|' "$PWD" "$@"
echo
"""


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_an_empty_folder_gets_the_project(exists, tmp_path, mars):
    folder = tmp_path / "my project"
    if exists:
        folder.mkdir()
    result = mars("init", str(folder))
    assert result.returncode == 0, result.stderr
    assert written(folder) == FILES
    *lines, last = result.stdout.splitlines()
    assert set(lines) == {f"wrote {folder / name}" for name in FILES}
    assert last == f"next: bash '{folder}/run.sh'   ({folder}/README.md explains it)"


def test_the_experiment_composes_and_its_rows_show_scenes(tmp_path, monkeypatch):
    init(tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    config = load_config("train", ["experiment=first"], ["configs"])
    assert (config.run.dir, config.run.num_steps, config.cluster.kind) == ("runs/first", 2, "local")
    assert load_config("train", ["experiment=first", "run.name=second"], ["configs"]).run.dir == "runs/second"
    rows = [json.loads(line) for line in Path(config.data.train_files[0]).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == config.data.prompts_per_step == 3
    # Scene 0 is at night, scene 1 is not, and the person of scene 2 stands at x = 14 to 28 of 56.
    assert [row["answer"] for row in rows] == ["night", "day", "left"]
    assert (make_scene(0, 0).light, make_scene(0, 1).light, make_scene(0, 2).box[::2]) == ("night", "both", (14, 28))
    for row in rows:
        assert row["prompt"].count("<image>") == len(row["images"]) == config.data.images_per_row
        assert [Path(name).parent.name for name in row["images"]] == row["extra_info"]["sources"]
        assert {Image.open(name).size for name in row["images"]} == {(56, 56)}


def test_a_preset_takes_the_place_of_the_quick_start_as_the_readme_says(tmp_path, monkeypatch):
    init(tmp_path)
    monkeypatch.chdir(tmp_path)
    file = Path("configs/experiment/first.yaml")
    text = file.read_text(encoding="utf-8")
    assert text.count("- quickstart\n") == 1
    text = re.sub(r"- quickstart\n.*\n.*\n", "- qwen2_5_vl_3b_1gpu_80gb\n", text)
    text = re.sub(r"^model:\n(  .*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=^actor:\n)  num_workers: 1\n", "", text, flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")
    config = load_config("train", ["experiment=first"], ["configs"])
    assert (config.model.path, config.rollout.engine) == ("Qwen/Qwen2.5-VL-3B-Instruct", "vllm")
    assert (config.cluster.device, config.reward.function) == ("cuda", "reward.py:score")


def test_the_script_runs_from_any_folder_and_makes_the_model_once(tmp_path):
    folder, elsewhere = tmp_path / "a project", tmp_path / "elsewhere"
    init(folder)
    elsewhere.mkdir()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(folder / "run.sh"), *arguments]
        return subprocess.run(
            command, cwd=elsewhere, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        )

    train = f"{folder}|-m|mars.main|--config-dir|configs|experiment=first|run.name=a b|--dry-run|"
    make = f"{folder}|-m|mars.cli.main|data|synth|tiny_model.part|--model|tiny|--seed|0|"
    for lines in ([make, train], [train]):
        result = run("run.name=a b", "--dry-run", MARS_PYTHON=str(python))
        assert (result.returncode, result.stdout.splitlines()) == (0, lines)
    assert (folder / "tiny_model").is_dir()
    assert not list(elsewhere.iterdir())
    result = run(MARS_PYTHON="/no/python")
    assert (result.returncode, result.stderr) == (
        4,
        "run.sh: '/no/python' has no mars; activate its environment, or set MARS_PYTHON\n",
    )


def test_a_folder_with_files_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(ConfigError, match=rf"^DIR: the folder is not empty; got {tmp_path}; give a new one, or an"):
        init(tmp_path)
    assert written(tmp_path) == {".hidden"}


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^DIR: cannot be read: Not a directory; got .*file; give another folder$"):
        init(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"^DIR: a link that leads nowhere; got .*link; give another folder$"):
        init(tmp_path / "link")
    with pytest.raises(ConfigError, match=r"^DIR: cannot be read: Not a directory"):
        init(tmp_path / "file" / "p")
