"""The help of every command: whole sentences on 80 columns, and an example that the command takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import typer.main

from mars.cli.app import app
from mars.cli.examples import example
from mars.config.command_line import parse_command_line
from mars.config.load import load_config

COLUMNS = 80
NARROW = 60
PASS_ON = {("train",): "train", ("sft",): "sft"}  # their help and options are those of mars.main and mars.sft
PROGRAMS = {"python -m mars.main": "mars train", "python -m mars.sft": "mars sft"}
ROOT = typer.main.get_command(app)


def commands(command=ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """(words after `mars`, command) of every group and command."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = dict(commands())
LEAVES = [path for path, command in ALL.items() if not hasattr(command, "commands")]


def example_of(text: str) -> list[list[str]]:
    """The words of each command below "Example:", with the lines joined that end with a backslash."""
    _, found, block = text.rpartition("Example:\n")
    assert found, "no example"
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines if line.strip()]
    return [
        shlex.split(PROGRAMS.get(" ".join(line[:3]), " ".join(line[:3]))) + line[3:] if line[0] == "python" else line
        for line in words
    ]


def problems_of(text: str, columns: int = COLUMNS) -> list[str]:
    """Lines that are cut or too long. A usage line may end with the dots of a repeated argument."""
    lines = [line for line in text.splitlines() if not line.lower().startswith("usage:")]
    cut = [line for line in lines if line.rstrip().endswith(("...", "…"))]
    return cut + [line for line in text.splitlines() if len(line) > columns]


def check_example(path: tuple[str, ...], words: list[str]) -> None:
    """The example names the command at `path`, and the command takes its words."""
    assert tuple(words[: len(path) + 1]) == ("mars", *path)
    rest = words[len(path) + 1 :]
    if path in PASS_ON:
        line = parse_command_line(PASS_ON[path], "mars", rest)
        load_config(PASS_ON[path], line.overrides, line.config_dirs)
        return
    ALL[path].make_context(path[-1], rest)


def test_the_walk_finds_the_commands():
    assert ("data", "convert", "llvip") in LEAVES
    assert ("ray", "submit") in LEAVES
    assert len(LEAVES) > 35


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_help_is_whole_on_80_columns(path, mars, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    result = mars(*path, "--help")
    assert result.returncode == 0
    assert problems_of(result.stdout) == []
    if path in LEAVES:
        for words in example_of(result.stdout):
            check_example(path, words)


def test_a_narrow_terminal_cuts_no_help(mars, monkeypatch):
    """Only an example may be longer than the line: two parts of it could not be copied."""
    monkeypatch.setenv("COLUMNS", str(NARROW))
    for path in ALL:
        _, _, text = mars(*path, "--help").stdout.partition("\n\n")  # behind the usage, which may end with dots
        assert problems_of(text.partition("Example:")[0], NARROW) == [], path


@pytest.mark.parametrize("text", ["  show  Show everything of…", "  ls  List the...", "x" * 81])
def test_a_cut_or_long_line_is_a_problem(text):
    assert problems_of(f"Usage: mars [OPTIONS] [ARGS]...\n{text}\n") == [text]


def test_an_example_of_no_command_is_refused():
    with pytest.raises(AssertionError, match="no example"):
        example_of("Options:\n  --help\n")
    for line in ("mars runs ls --jsn", "mars runs show", "mars runs show a b", "mars data synth out --seed x"):
        words = shlex.split(line)
        path = tuple(words[1:3])
        with pytest.raises(Exception, match=r"(?i)no such option|missing|unexpected|valid"):
            check_example(path, words)


def test_the_lines_of_an_example_are_joined():
    text = example("mars a --b \\", "      --c d", "mars e")
    assert example_of(text.replace("\b\n", "")) == [["mars", "a", "--b", "--c", "d"], ["mars", "e"]]
