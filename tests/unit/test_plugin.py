"""Users' files: what may be loaded, what they may import, what is recorded of them."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path

import pytest

from mars import plugin
from mars.errors import ConfigError
from mars.plugin import find, is_spec, load, record, resolve, self_test, shipped

WANTED = "(number)"


def write(folder: Path, **files: str) -> Path:
    """folder/<name>.py for each file; "a__b" is the file b in the folder a."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/', 1) if not name.startswith('__') else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def call_of(folder: Path, name: str = "f", file: str = "own"):
    return load("hooks.step", f"{folder / file}.py:{name}", WANTED).call


@pytest.mark.parametrize(
    ("text", "right"),
    [("a.py:f", True), ("/a/b c.py:f", True), ("a.py", False), ("a.py:", False), (":f", False), ("a.py:f g", False)],
)
def test_the_form_of_a_spec(text, right):
    assert is_spec(text) is right


def test_a_spec_is_made_absolute(tmp_path, monkeypatch):
    write(tmp_path, own="def f(number): return number")
    monkeypatch.chdir(tmp_path)
    assert resolve("hooks.step", "own.py:f", "want a file") == f"{tmp_path}/own.py:f"
    with pytest.raises(ConfigError, match=r"^hooks\.step: no such file; got 'other\.py:f'; want a file$"):
        resolve("hooks.step", "other.py:f", "want a file")


def test_own_recipes_are_found_from_any_folder_and_a_users_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = resolve("reward.function", "recipe/vlm_r1/functions.py:detection", "want a file")
    assert Path(spec.partition(":")[0]) == Path(plugin.__file__).parents[1] / "recipe" / "vlm_r1" / "functions.py"
    (tmp_path / "recipe" / "vlm_r1").mkdir(parents=True)
    (tmp_path / "recipe" / "vlm_r1" / "functions.py").touch()
    assert find("recipe/vlm_r1/functions.py") == tmp_path / "recipe" / "vlm_r1" / "functions.py"
    assert find("mars/plugin.py") == tmp_path / "mars" / "plugin.py", "only recipes are looked for"


def test_folders_and_rows_of_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = Path(plugin.__file__).parents[1] / "recipe"
    assert shipped("recipe/papo") == str(recipes / "papo")
    assert shipped("./recipe/papo/tiny.jsonl") == str(recipes / "papo" / "tiny.jsonl")
    for path in ("recipe/none", "recipes/papo", "/recipe/papo", "configs", ""):
        assert shipped(path) == path
    (tmp_path / "recipe" / "papo").mkdir(parents=True)
    assert shipped("recipe/papo") == "recipe/papo", "one's own comes first"
    assert shipped("recipe/papo/tiny.jsonl") == str(recipes / "papo" / "tiny.jsonl")


def test_a_loaded_function_tells_what_it_takes(tmp_path):
    write(tmp_path, own="def f(number, *, scale=2): return number * scale")
    function = load("hooks.step", f"{tmp_path}/own.py:f", WANTED)
    assert list(function.signature.parameters) == ["number", "scale"]
    assert function.call(3, scale=5) == 15
    function.check_call(None)
    function.check_call(None, scale=None)
    with pytest.raises(ConfigError, match=r"^hooks\.step: .*own\.py:f takes \(number.*; want \(number\)$"):
        function.check_call(None, size=None)


# --- modules beside the file

AT_ONCE = "import helper\ndef f(number): return helper.NAME"
LATER = "def f(number):\n    import helper\n    return helper.NAME"


@pytest.mark.parametrize("code", [AT_ONCE, LATER])
def test_files_in_two_folders_each_have_their_own_helper(tmp_path, monkeypatch, code):
    monkeypatch.chdir("/")
    calls = {}
    for name in "ab":
        calls[name] = call_of(write(tmp_path / name, own=code, helper=f"NAME = {name!r}"))
    for _ in range(2):
        assert [calls[name](0) for name in "aba"] == ["a", "b", "a"]


def test_a_helper_may_have_helpers_and_be_a_package(tmp_path):
    write(
        tmp_path,
        own="from pack.inner import double\nfrom other import one\ndef f(number): return double(number) + one()",
        pack____init__="",
        pack__inner="from pack.deep import two\ndef double(number): return two() * number",
        pack__deep="def two(): return 2",
        other="def one():\n    import last\n    return last.ONE",
        last="ONE = 1",
    )
    f = call_of(tmp_path)
    assert [f(3), f(4)] == [7, 9]


def test_a_helper_may_be_imported_as_from_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    late = "def f(number):\n    from .helper import NAME\n    return NAME"
    for name, code in {"early": "from .helper import NAME\ndef f(number): return NAME", "late": late}.items():
        files = {"own-v2.0": code, "helper": "from .last import NAME\nfrom other import ONE", "other": "ONE = 1"}
        for number in "12":
            write(tmp_path / name / number, **files, last=f"NAME = {name + number!r}")
        first, second = (call_of(tmp_path / name / number, file="own-v2.0") for number in "12")
        assert [first(0), second(0), first(0)] == [f"{name}1", f"{name}2", f"{name}1"]


@pytest.mark.parametrize("code", [AT_ONCE, LATER, "from .helper import NAME\ndef f(number): return NAME"])
def test_a_file_that_is_a_link_has_the_modules_of_both_folders(tmp_path, code):
    write(tmp_path / "theirs", own=code, helper="import shared\nNAME = shared.NAME", shared="NAME = 'theirs'")
    write(tmp_path / "mine", shared="NAME = 'mine'")
    (tmp_path / "mine" / "own.py").symlink_to("../theirs/own.py")
    (tmp_path / "folder").symlink_to("theirs")
    path = list(sys.path)
    assert call_of(tmp_path / "mine")(0) == "mine"
    assert call_of(tmp_path / "folder")(0) == "theirs"
    assert (sys.path, {"helper", "shared"} & set(sys.modules)) == (path, set())


def test_a_module_that_is_not_there_is_named_with_what_may_be_imported(tmp_path):
    write(tmp_path, own="from rewards.helper import NAME", helper="NAME = 1")
    with pytest.raises(ConfigError, match=r"No module named 'rewards'; modules beside the file .*: import helper"):
        call_of(tmp_path)


@pytest.mark.parametrize(
    "code", ["import {0}", "def f(number):\n    from {0}.deep import NAME", "import os, {0} as other"]
)
@pytest.mark.parametrize(("name", "whose"), [("json", "Python's own"), ("pytest", "that of an installed package")])
def test_a_name_with_two_modules_is_refused(tmp_path, name, whose, code):
    """Which of the two it got would depend on what the process has imported, and so on the command."""
    write(tmp_path, own=code.format(name) + "\ndef f(number): ...", **{name: "NAME = 1"})
    with pytest.raises(ConfigError, match=rf"^hooks\.step: .*own\.py imports '{name}', .*/{name}\.py and {whose}; ren"):
        call_of(tmp_path)


def test_a_name_with_two_modules_may_be_imported_as_from_a_package(tmp_path):
    write(tmp_path, own="from .json import NAME\ndef f(number): return NAME", json="NAME = 1", string="1 / 0")
    assert call_of(tmp_path)(0) == 1
    write(tmp_path / "data", own="import json\ndef f(number): return json.dumps(number)")
    (tmp_path / "data" / "json").mkdir()  # a folder of files is no module
    assert call_of(tmp_path / "data")(0) == "0"


def test_a_helper_is_run_once_for_a_file_and_again_when_the_file_is_loaded_again(tmp_path):
    write(tmp_path, own=LATER.replace("NAME", "seen.append(0) or len(helper.seen)"), helper="seen = []")
    first = call_of(tmp_path)
    assert [first(0), first(0)] == [1, 2]
    assert call_of(tmp_path)(0) == 1
    assert first(0) == 3


def test_loading_and_calling_leave_imports_as_they_were(tmp_path, monkeypatch):
    theirs = sys.modules["helper"] = type(sys)("helper")
    try:
        write(tmp_path, own=LATER, helper="NAME = 1\nimport beside", beside="")
        del sys.modules["helper"]
        path, names = list(sys.path), set(sys.modules)
        f = call_of(tmp_path)
        assert f(0) == 1
        assert sys.path == path
        assert {name for name in set(sys.modules) - names if not name.startswith("mars_plugin_")} == set()
        sys.modules["helper"] = theirs
        assert f(0) == 1, "its own, whatever stands there meanwhile"
        assert sys.modules["helper"] is theirs
    finally:
        sys.modules.pop("helper", None)


def test_after_an_error_imports_are_as_they_were_too(tmp_path):
    write(tmp_path, own="import helper\ndef f(number): raise ValueError(helper.NAME)", helper="NAME = 'no'")
    path, f = list(sys.path), call_of(tmp_path)
    with pytest.raises(ValueError, match="no"):
        f(0)
    write(tmp_path, broken="import helper\n1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        call_of(tmp_path, file="broken")
    assert sys.path == path
    assert "helper" not in sys.modules


def test_a_package_that_everybody_shares_stays_shared(tmp_path, monkeypatch):
    """The file may lie in a folder that is importable anyway, such as the project's own."""
    write(
        tmp_path,
        shared____init__="",
        shared__part="class Part: ...",
        own="def f(number):\n    import shared.part\n    return shared.part.Part",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import shared  # type: ignore[import-not-found]

    try:
        part = call_of(tmp_path)(0)
        assert sys.modules["shared.part"].Part is part
        assert shared.part.Part is part
    finally:
        for name in ("shared", "shared.part"):
            sys.modules.pop(name, None)


# --- what is recorded, and tried


def test_the_sha256_of_each_file_is_recorded(tmp_path, caplog):
    write(tmp_path, own="def f(number): ...\ndef g(number): ...", other="x = 1")
    specs = {
        "reward.function": [f"{tmp_path}/own.py:f", f"{tmp_path}/other.py:x"],
        "hooks.step": [],
        "hooks.end": [f"{tmp_path}/own.py:g"],
    }
    with caplog.at_level(logging.INFO):
        record(tmp_path, specs)
    digest = {name: hashlib.sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest() for name in ("own", "other")}
    assert json.loads((tmp_path / "plugins.json").read_text()) == {
        "reward.function": [
            {"file": f"{tmp_path}/own.py", "function": "f", "sha256": digest["own"]},
            {"file": f"{tmp_path}/other.py", "function": "x", "sha256": digest["other"]},
        ],
        "hooks.end": [{"file": f"{tmp_path}/own.py", "function": "g", "sha256": digest["own"]}],
    }
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == [
        digest["own"], digest["other"], digest["own"]
    ]  # fmt: skip


def test_a_file_that_is_gone_is_not_recorded(tmp_path):
    with pytest.raises(ConfigError, match=r"^hooks\.step: .*gone\.py cannot be read: No such file"):
        record(tmp_path, {"hooks.step": [f"{tmp_path}/gone.py:f"]})


def test_a_self_test_fails_when_every_item_did():
    self_test("hooks.step", [], "look at it")
    self_test("hooks.step", ["no", None], "look at it")
    with pytest.raises(
        ConfigError, match=r"^hooks\.step: failed on each of the 2 items.*; the first: one; look at it$"
    ):
        self_test("hooks.step", ["one", "two"], "look at it")
