"""tests/unit and tests/shipped are quick because they load no model, no processor and no tokenizer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SLOW_MODULES = {"transformers", "tokenizers", "vllm", "ray"}
SLOW_NAMES = {"build_tiny", "build_tokenizer", "TinyWorld", "from_pretrained", "load_tokenizer", "build_policy"}


def found_in(text: str) -> set[str]:
    """Modules and functions of a test file that it should not use."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & SLOW_MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} & SLOW_MODULES
            found |= {alias.name for alias in node.names} & SLOW_NAMES
        elif isinstance(node, ast.Attribute | ast.Name):
            found |= {node.attr if isinstance(node, ast.Attribute) else node.id} & SLOW_NAMES
    return found


@pytest.mark.parametrize("folder", ["unit", "shipped"])
def test_quick_tests_load_no_model(folder):
    files = (TESTS / folder).rglob("*.py")
    found = {str(file.relative_to(TESTS)): found_in(file.read_text(encoding="utf-8")) for file in files}
    assert len(found) > 50, "the test finds them"
    assert {file: names for file, names in found.items() if names} == {}, "they belong in tests/integration"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def test():\n    from transformers import AutoProcessor", "transformers"),
        ("import ray.util", "ray"),
        ("from mars.data.synthetic.tiny_model import build_tiny", "build_tiny"),
        ("model = PromptEncoder.from_pretrained(folder)", "from_pretrained"),
    ],
)
def test_a_model_in_a_quick_test_is_noticed(text, name):
    assert found_in(text) == {name}
