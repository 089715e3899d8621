"""`mars recipe ls` and `mars recipe new`: what is written composes and runs as it is."""

from __future__ import annotations

import random
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from mars.cli.recipe import first_sentence, list_, new
from mars.config.load import load_config
from mars.errors import ConfigError
from mars.hooks.load import resolved
from tests.builders import make_prompt
from tests.fakes.step import IMAGE, one_step, parts
from tests.hook_builders import loaded_hooks
from tests.unit.test_step import make_table

SHIPPED = Path(__file__).parents[3] / "recipe"


def test_every_recipe_is_listed_with_its_first_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new("my_method", Path("recipe"))
    capsys.readouterr()
    list_(Path("recipe"))
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    names = {path.parent.name for path in SHIPPED.glob("*/README.md")}
    assert rows.keys() == {*names, "my_method"}
    assert rows["my_method"] == "my_method gives a bonus to the shortest right response of a prompt."
    assert rows["mars"].startswith("MARS-GRPO compares responses to all images")
    assert all(20 < len(sentence) < 120 and sentence.endswith(".") for sentence in rows.values()), rows


def test_recipes_in_the_folder_of_mars_are_listed_once(monkeypatch, capsys):
    monkeypatch.chdir(SHIPPED.parent)
    list_(Path("recipe"))
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("readme", "sentence"),
    [
        ("# A\n\nOne\nline. Two.\n\nThree.", "One line."),
        ("# A\n\n## B\n\nReads 0.5 of it! Yes.", "Reads 0.5 of it!"),
        ("# A\n", ""),
        ("", ""),
    ],
)
def test_the_first_sentence_is_that_below_the_title(readme, sentence):
    assert first_sentence(readme) == sentence


@pytest.mark.parametrize("folder", ["recipe", "methods/of mine"])
def test_a_new_recipe_composes_and_its_hook_runs(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new("my_method", Path(folder))
    config = load_config("train", ["experiment=my_method", "data.train_files=[a]"], [str(Path(folder) / "my_method")])
    assert config.run.name == "my_method"
    prompts = [make_prompt("p0", [IMAGE] * 2, extra_info={"name": "p0"})]
    table = {key: float(key[2] > 0) for key in make_table(prompts, random.Random(0))}  # all right but the shortest
    hooks = loaded_hooks(resolved(config.recipe))
    result = one_step(replace(parts(table), hooks=hooks), prompts)
    (item,) = result.rollouts
    assert [rollout.reward.score for rollout in item.multi.rollouts] == [0.0, 1.2, 1.0, 1.0]
    assert {rollout.reward.parts["shortest_right"] for group in item.anchors for rollout in group.rollouts} == {0.0}


def test_a_name_that_is_no_name_or_taken_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("My", "a/b", "a-b", "1a", ""):
        with pytest.raises(ConfigError, match=r"^NAME: not small letters, digits and _; got"):
            new(name, Path("recipe"))
    new("mine", Path("recipe"))
    before = (tmp_path / "recipe/mine/functions.py").read_bytes()
    with pytest.raises(ConfigError, match=r"^NAME: the folder is there already; got recipe/mine; give another name$"):
        new("mine", Path("recipe"))
    assert (tmp_path / "recipe/mine/functions.py").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *(
            (name, "a configuration does not read it as text")
            for name in ["null", "on", "off", "yes", "no", "true", "false", "nan", "inf"]
        ),
        ("quickstart", "mars has an experiment of this name"),
        ("vade", "mars has a recipe of this name"),
        ("vade_tiny", "a recipe of mars has an experiment of this name"),
    ],
)
def test_a_name_that_runs_nothing_or_hides_a_recipe_of_mars_is_refused(name, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^NAME: {reason}; got '{name}'; give another name$"):
        new(name, Path("recipe"))
    assert not list(tmp_path.iterdir())


def test_the_command_that_comes_next_is_quoted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new("mine", Path("my dir"))
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:6] == ["next:", "mars", "train", "--config-dir", "my dir/mine", "experiment=mine"]


def test_readmes_that_cannot_be_read_are_said_and_the_others_listed(tmp_path, capsys):
    for name in ("folder", "latin", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "README.md").mkdir()
    (tmp_path / "latin" / "README.md").write_bytes("# Größe\n\nEin Satz.".encode("latin-1"))
    (tmp_path / "mine" / "README.md").write_text("# Mine\n\nThe third.")
    list_(tmp_path)
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert rows["mine"] == "The third."
    for name in ("folder", "latin"):
        assert rows[name].startswith("README.md cannot be read: ")


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(
        ConfigError, match=r"^--dir: cannot write file/z/README\.md: Not a directory; give another folder$"
    ):
        new("z", Path("file"))
    Path("link").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"^NAME: the folder is there already; got link; give another name$"):
        new("link", Path())
