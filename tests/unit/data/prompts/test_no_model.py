"""What a `model.path` that is no model is said to be."""

import os
import sys
from types import SimpleNamespace

import pytest

from mars.checks.model import check_files
from mars.data.prompts.tokenizer import no_model, read_json, refuse_file
from mars.errors import SetupError


def test_a_path_that_is_no_model_is_told_apart(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"")
    os.symlink(tmp_path / "gone", tmp_path / "broken")
    os.symlink("loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    words = {
        "config.json": f"is a file, and not the folder of a model; got {tmp_path}/config.json; give the folder that "
        f"holds it, {tmp_path}",
        "sub/weights.bin": "is a file, and not the folder of a model",
        "broken": f"a link that leads to nothing; got {tmp_path}/broken; correct the link",
        "loop": "a link that leads to nothing",
        "pipe": "is a named pipe, and not the folder of a model",
        "none": "no such folder, and no such model on the Hugging Face hub, or the hub cannot be reached; got "
        f"{tmp_path}/none; correct the path",
    }
    for name, text in words.items():
        error = no_model(str(tmp_path / name))
        assert str(error).startswith(f"model.path: {text}"), name
        assert error.exit_code == 4


@pytest.mark.parametrize("look", [lambda path: read_json(path, "config.json"), lambda path: check_files(path, "key")])
@pytest.mark.parametrize("name", ["file", "org/file", "link"])
def test_the_hub_is_not_asked_for_what_is_a_file(tmp_path, monkeypatch, look, name):
    asked = []
    monkeypatch.setitem(sys.modules, "transformers.utils", SimpleNamespace(cached_file=lambda *a, **k: asked.append(a)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    for path in ("file", "org/file"):
        (tmp_path / path).touch()
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(SetupError, match=f"(is a file|a link that leads to nothing).*; got {name};"):
        look(name)
    assert asked == []


def test_a_folder_and_a_name_of_the_hub_are_not_refused(tmp_path):
    refuse_file(str(tmp_path))
    refuse_file("Qwen/Qwen2.5-VL-3B-Instruct")
