"""Errors of users' code: the message names the object and the line, and the error itself is kept as the cause."""

from __future__ import annotations

import pytest

from mars import users_code
from mars.errors import ConfigError, DataError, MarsError
from mars.hooks.requests import accuracy_about
from mars.plugin import load
from mars.users_code import calling

FILE = """
import json; from dataclasses import dataclass
from mars.errors import DataError
from mars.hooks.requests import accuracy_about

def lacks():
    return {}["x"]

def leaves():
    raise SystemExit(0)

def silent():
    assert False

def library():
    return json.loads("{")

def asks():
    return accuracy_about(None, "x")

def bad_row():
    raise DataError("rows.jsonl:3: no image")

def slow():
    yield 1
    yield {}["y"]

def assigns():
    DataAt(1).step = 3

def evaluates():
    eval("1/0")

@dataclass(frozen=True)
class DataAt:
    step: int
"""


def failure_of(tmp_path, name, **options) -> BaseException:
    (tmp_path / "own.py").write_text(FILE)
    function = load("recipe.sampler", f"{tmp_path}/own.py:lacks", "()").module.__dict__[name]
    with pytest.raises(MarsError) as caught, calling(f"recipe.sampler: own:{name} failed", **options):
        list(function())
    return caught.value


@pytest.mark.parametrize(
    ("name", "reason", "line"),
    [("lacks", "KeyError: 'x'", 7), ("leaves", "SystemExit: 0", 10), ("silent", "AssertionError", 13),
     ("slow", "KeyError: 'y'", 26), ("assigns", "FrozenInstanceError: cannot assign to field 'step'", 29),
     ("evaluates", "ZeroDivisionError: division by zero", 32)],
)  # fmt: skip
def test_an_error_is_named_with_its_line(tmp_path, name, reason, line):
    error = failure_of(tmp_path, name)
    assert type(error) is ConfigError
    assert str(error) == f"recipe.sampler: own:{name} failed: {reason} ({tmp_path}/own.py:{line}); correct it"
    assert type(error.__cause__).__name__ == reason.partition(":")[0]  # so the log has its traceback


def test_the_line_is_the_users_even_if_a_library_raised(tmp_path):
    assert "JSONDecodeError: " in str(failure_of(tmp_path, "library"))
    assert str(failure_of(tmp_path, "library")).endswith(f" ({tmp_path}/own.py:16); correct it")


def test_an_error_in_mars_is_not_blamed_on_the_file_alone(tmp_path):
    source = accuracy_about.__code__
    text = str(failure_of(tmp_path, "asks"))
    assert "AttributeError: " in text
    assert f" ({source.co_filename}:" in text
    assert text.endswith(f", called from {tmp_path}/own.py:19); correct it")


def test_an_installed_mars_is_no_library_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(users_code, "_LIBRARIES", (users_code._PACKAGE.parent,))
    text = str(failure_of(tmp_path, "asks"))
    assert f" ({accuracy_about.__code__.co_filename}:" in text
    assert text.endswith(f", called from {tmp_path}/own.py:19); correct it")


def test_a_line_of_an_installed_recipe_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(users_code, "_LIBRARIES", (tmp_path.parent,))
    monkeypatch.setattr(users_code, "_RECIPES", tmp_path)
    assert str(failure_of(tmp_path, "lacks")).endswith(f"KeyError: 'x' ({tmp_path}/own.py:7); correct it")


def test_errors_of_mars_and_those_that_the_caller_handles_are_passed_on(tmp_path):
    assert type(failure_of(tmp_path, "bad_row")) is DataError
    refused = failure_of(tmp_path, "bad_row", do="return an image", unchanged=ConfigError)
    assert str(refused).endswith(f"DataError: rows.jsonl:3: no image ({tmp_path}/own.py:22); return an image")
    with pytest.raises(KeyError), calling("", unchanged=(MarsError, KeyError)):
        {}["x"]
    with pytest.raises(KeyboardInterrupt), calling(""):
        raise KeyboardInterrupt


def test_without_a_users_frame_there_is_no_line():
    failure, match = (
        "recipe.requests: own:Asks failed",
        r"^recipe\.requests: own:Asks failed: TypeError: [^(]*; corr",
    )
    with pytest.raises(ConfigError, match=match), calling(failure):
        tuple(None)  # type: ignore[arg-type]
