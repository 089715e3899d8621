"""A file that Hydra cannot compose, and does not name, is named with its fault."""

import pytest

from mars.config.compose import compose_files
from mars.config.faulty_file import faulty_file
from mars.config.schema import TrainConfig

GLOBAL = "# @package _global_\n"


@pytest.fixture
def write(tmp_path):
    """name, text -> tmp_path/name.yaml, in the encoding Latin-1."""

    def write(name, text):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="latin-1")
        return path

    return write


def said(folder):
    """What is wrong with experiment=mine, from the whole composition."""
    composition = compose_files("train", TrainConfig, ["experiment=mine"], [str(folder)])
    return [str(problem) for problem in composition.problems]


@pytest.mark.parametrize("entry", ["mine", "/experiment: mine", "/experiment: [mine]", "/experiment/mine@_here_"])
def test_a_file_that_names_itself(write, tmp_path, entry):
    path = write("experiment/mine", f"{GLOBAL}defaults:\n  - {entry}\n")
    assert said(tmp_path) == [f"{path}: its `defaults` name the file itself; remove this entry"]


def test_files_that_name_each_other(write, tmp_path):
    write("experiment/mine", f"{GLOBAL}defaults:\n  - a\n")
    path = write("experiment/a", f"{GLOBAL}defaults:\n  - _self_\n  - b\n")
    write("experiment/b", f"{GLOBAL}defaults:\n  - quickstart\n  - optional /experiment: a\n")
    circle = "experiment/a -> experiment/b -> experiment/a"
    assert said(tmp_path) == [f"{path}: its `defaults` lead back to the file itself ({circle}); remove an entry"]


def test_a_group_that_an_experiment_chooses(write, tmp_path):
    write("experiment/mine", f"{GLOBAL}defaults:\n  - override /anchor: own\n")
    path = write("anchor/own", "defaults:\n  - own\n")
    assert said(tmp_path) == [f"{path}: its `defaults` name the file itself; remove this entry"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("run:\n  name: \xff\n", "is not text in UTF-8; correct the file"),
        ("a: &x [*x]\n", "is nested too deeply, or an alias (*name) contains itself; correct the file"),
        ("defaults:\n  - 3\n", "an entry of `defaults` is not a name; got 3; write `- name` or `- group: choice`"),
    ],
)
def test_a_file_that_another_one_names(write, tmp_path, text, wrong):
    write("experiment/mine", f"{GLOBAL}defaults:\n  - a\n")
    path = write("experiment/a", f"{GLOBAL}{text}")
    assert said(tmp_path) == [f"{path}: {wrong}"]


def test_only_files_that_are_chosen_are_looked_at(write, tmp_path):
    write("experiment/good", f"{GLOBAL}defaults:\n  - twice\n  - other\n")
    write("experiment/other", f"{GLOBAL}defaults:\n  - twice\n")
    write("experiment/twice", GLOBAL)
    bad = write("experiment/bad", f"{GLOBAL}defaults:\n  - bad\n")
    assert faulty_file([tmp_path], ["experiment=[quickstart,good]", "run.name=bad", "+anchor=bad"]) is None
    problem = faulty_file([tmp_path], ["experiment=[good,bad]"])
    assert problem is not None
    assert problem.key == str(bad)
