"""Paths on the command line of `mars`: homes after "=", and texts that are no path."""

from pathlib import Path
from typing import get_type_hints

import pytest

from mars.cli.app import app
from mars.cli.check import run_check
from mars.errors import ConfigError

_TEXTS_WITH_A_PATH = {"model", "files", "questions", "held_out", "config_dir", "resume"}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def parameters(typed, prefix="mars"):
    """(command and name, type, Typer's description) of all parameters of all commands."""
    for command in typed.registered_commands:
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            if hasattr(hint, "__metadata__"):
                whole = f"{prefix} {command.name or command.callback.__name__} {name}"
                yield whole, hint.__origin__, hint.__metadata__[0]
    for group in typed.registered_groups:
        yield from parameters(group.typer_instance, f"{prefix} {group.name}")


def test_every_path_of_every_command_may_begin_with_the_home(home):
    paths = [
        (name, info)
        for name, kind, info in parameters(app)
        if "Path" in str(kind) or ("str" in str(kind) and name.split()[-1] in _TEXTS_WITH_A_PATH)
        if name != "mars data check files"  # these stand among settings
    ]
    assert len(paths) > 40
    assert [name for name, info in paths if info.parser is None] == []
    assert {str(info.parser("~/a b")) for _, info in paths} == {f"{home}/a b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "show", "rows.jsonl", "out.html", "--image-root=~nobody_here/x"), "no user has this home"),
        (("data", "show", "rows.jsonl", "out.html", "--image-root="), "path: empty; got ''; give a path"),
        (("runs", "ls", ""), "path: empty"),
        (("ckpt", "export", "$RUN", "out"), "a shell variable that no shell has replaced; got '$RUN'"),
        (("runs", "ls", "/runs/$USER"), "so that the shell does, or ./$… for a file of this name"),
        (("runs", "ls", "s3://bucket/runs"), "an address, and only paths are read"),
        (("eval", "show", "answers\r"), "white space before or after the path"),
    ],
)
def test_what_is_no_path_is_refused_with_the_name_of_its_option(mars, arguments, message):
    result = mars(*arguments)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_an_option_with_the_home_is_followed(mars, home):
    (home / "mine").mkdir()
    result = mars("runs", "ls", "~/mine")
    assert (result.returncode, result.stdout) == (0, f"{home}/mine: no run is in it\n")
    assert mars("recipe", "new", "my_method", "--dir=~/mine").returncode == 0
    assert sorted(path.name for path in (home / "mine").iterdir()) == ["my_method"]


def test_the_files_of_a_check_may_begin_with_the_home(home):
    with pytest.raises(ConfigError, match="path: no user has this home; got '~nobody_here"):
        run_check(["~nobody_here/a.jsonl", "reward=vqa"], [], "/m", [])


@pytest.mark.parametrize("folder", ["~nobody_here/c", ""])
def test_a_folder_of_settings_is_a_path_too(mars, folder):
    result = mars("train", f"--config-dir={folder}", "model.path=/m")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "--config-dir: " in result.stderr
    assert "Path" not in result.stderr


def test_a_function_in_a_home_that_no_user_has_is_a_missing_file():
    from mars.plugin import find

    assert find("~nobody_here/reward.py") == Path.cwd() / "~nobody_here/reward.py"
