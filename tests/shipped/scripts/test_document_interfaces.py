"""scripts/document_interfaces.py: the table in docs/architecture.md is that of the code."""

from __future__ import annotations

import pytest

from scripts import document_interfaces as interfaces

EXAMPLE = {
    "mars/tracking/tracker.py": """
class Tracker(Protocol):
    def log(self, metrics: dict[str, float | None], step: int) -> None: ...
    def close(self) -> None: ...
""",
    "mars/files.py": """
class Whole:
    def log(self, metrics, step): ...
    def close(self): ...
class Heir(Whole):
    def log(self, metrics, step): ...
class Half:
    def close(self): ...
class Other:
    def log(self, metrics, step, when): ...
    def close(self): ...
""",
    "tests/fakes/tracker.py": "class Fake:\n    def log(self, metrics, step): ...\n    def close(self): ...\n",
}


def test_the_documented_interfaces_are_those_of_the_code():
    """If this fails: python scripts/document_interfaces.py"""
    text = interfaces.DOCUMENT.read_text(encoding="utf-8")
    assert interfaces.document(text) == text


def test_who_implements_an_interface(tmp_path, monkeypatch):
    for name, text in EXAMPLE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(interfaces, "INTERFACES", {"Tracker": "mars/tracking/tracker.py"})
    page = f"before\n{interfaces.FIRST}\nold\n{interfaces.LAST}\nafter\n"
    assert interfaces.document(page, tmp_path).splitlines() == [
        "before",
        interfaces.FIRST,
        "| interface | methods | implementations |",
        "|---|---|---|",
        "| `Tracker`, `mars/tracking/tracker.py` "
        r"| `log(metrics: dict[str, float \| None], step: int) -> None`<br>`close() -> None` "
        "| `Heir`, `Whole`, `Fake` (a test's) |",
        interfaces.LAST,
        "after",
    ]
    with pytest.raises(ValueError, match="marks of the table"):
        interfaces.document("no table", tmp_path)
