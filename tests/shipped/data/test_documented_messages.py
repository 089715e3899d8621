"""The pages about data name every reason and every message with which rows, files and public sets are refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from mars.data.pixels.stored import BadImageReason

ROOT = Path(__file__).parents[3]
PAGES = ("data.md", "bad_rows.md", "made_rows.md")
DOCS = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
MODULES = [
    *(path for path in (ROOT / "mars" / "data").rglob("*.py") if "synthetic" not in path.parts),
    *(ROOT / "mars" / name for name in ("checks/data.py", "cli/check.py", "cli/convert.py", "report/data_page.py")),
    ROOT / "mars" / "evaluation" / "questions.py",
]
HINT = re.compile(r"; (?:got|give|use|name|remove|want|fix|sides|set) .*", re.DOTALL)
# Said of a row or an image that the reader has refused by its reason before.
BEHIND_OTHERS = (
    "message role must be",
    "the prompt has … image placeholders",
    "the … text holds the special token",
    "…: unknown image encoding",
)


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls(names: tuple[str, ...]) -> Iterator[tuple[str, ast.Call]]:
    for path in MODULES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def text_of(node: ast.expr | None) -> str | None:
    """A text as written, "…" for what is filled in; None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def reasons() -> set[str]:
    found = {f"image_{reason}" for reason in get_args(BadImageReason)}
    found |= {f"{number}_{what}" for number in ("missing", "several")
              for what in ("visible_image", "infrared_image", "annotation")}  # fmt: skip
    for _, call in calls(("RowError", "RowProblem")):
        place = 0 if call.func.id == "RowError" else 1
        reason = text_of(call.args[place]) if len(call.args) > place else None
        if reason and "…" not in reason:
            found.add(reason)
    return found


def test_every_reason_is_documented():
    rows = [line for line in DOCS.splitlines() if line.startswith("| `")]
    documented = {name for line in rows for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert len(reasons()) > 30, "the test finds them"
    assert sorted(reasons() - documented) == []


@cache
def messages() -> list[tuple[str, str]]:
    """(place, text) of what is said of files as a whole: raised, or appended to a list that is raised."""
    found = []
    for place, call in calls(("DataError", "FileError", "SetupError", "ConfigError")):
        if call.args and (text := text_of(call.args[0])):
            found.append((place, text))
    for path in MODULES:
        for node in nodes(path):
            is_append = isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "append"
            of = getattr(getattr(node.func, "value", None), "id", "") if is_append else ""
            if of in ("found", "broken", "problems") and (text := text_of(node.args[0])):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def test_every_message_of_files_is_documented():
    found = messages()
    assert len(found) > 25, "the test finds them"
    plain = re.sub(r"\s+", " ", DOCS.replace("`", ""))
    missing = []
    for place, text in found:
        pieces = [piece.strip(" .,()") for piece in re.split("…|\\n|: ?", HINT.sub("", text))]
        telling = [piece for piece in pieces if " " in piece and not piece.startswith("mars ")]
        if telling and not any(piece in plain for piece in telling) and not text.startswith(BEHIND_OTHERS):
            missing.append(f"{place}: {text}")
    assert missing == []


@pytest.mark.parametrize("known", ["no such file", "has no rows", "cannot be read as JSON", "does not contain …"])
def test_the_test_reads_messages(known):
    assert any(known.strip("… ") in text for _, text in messages())
