"""What `mars data convert` prints can be typed as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mars.cli.convert import _image_root_setting
from mars.config.load import load_config


@pytest.mark.parametrize(
    "name", ["plain-1.x_y", "two words", "it's", "a,b", "{x}", 'quote"d', "dollar$HOME", "ünï", "a=b"]
)
def test_the_image_root_it_names_is_read_back_from_a_shell(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (word,) = shlex.split(_image_root_setting(folder))
    assert load_config("train", ["data.train_files=[x]", word], []).data.image_root == str(folder)


def test_it_is_a_path_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _image_root_setting(Path("src")) == f"data.image_root={tmp_path / 'src'}"
