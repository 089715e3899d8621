"""The notebooks of examples/: valid, short, without outputs, and right about what they say of advantages."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from mars.algorithms.advantages import AdvantageSettings, group_advantages
from tests.shipped.test_docs import LINK, ROOT, anchors

NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))
LONGEST_CELL = 25  # lines of code
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_is_one():
    assert NOTEBOOKS


@notebooks
def test_a_notebook_has_the_keys_of_nbformat_4_5_and_no_outputs(path):
    notebook = read(path)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"] == {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }  # fmt: skip
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[\w-]{1,64}", name)] == []
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert (cell["execution_count"], cell["outputs"]) == (None, []), f"{cell['id']}: clear the outputs"
        assert (cell["cell_type"] in ("code", "markdown"), set(cell)) == (True, keys)
        assert all(isinstance(line, str) for line in cell["source"])


@notebooks
def test_cells_are_python_and_short(path):
    """Without magics, so that the cells run without IPython; ruff checks the code of notebooks too."""
    code = {cell["id"]: "".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"}
    for name, source in code.items():
        ast.parse(source, name)
    assert {name for name, source in code.items() if source.count("\n") + 1 > LONGEST_CELL} == set()


@notebooks
def test_links_of_a_notebook_lead_somewhere(path):
    texts = ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    targets = [target.partition("#") for text in texts for target in LINK.findall(text)]
    assert len(targets) > 3
    assert [name for name, _, _ in targets if not (path.parent / name).exists()] == []
    headed = [(path.parent / name, heading) for name, _, heading in targets if heading]
    assert [heading for page, heading in headed if heading not in anchors(page)] == []


def advantages(right: int, anchors: list[float]) -> tuple[float, float]:
    """(of a right, of a wrong) one of eight answers to all images, of which `right` have the score 1."""
    settings = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
    rewards = torch.tensor([1.0] * right + [0.0] * (8 - right))
    others = torch.tensor(anchors)
    index = [torch.zeros(len(values), dtype=torch.int64) for values in (rewards, others)]
    values = group_advantages(rewards, index[0], others, index[1], 1, settings).values
    return float(values[0]), float(values[-1])


@pytest.mark.parametrize("right_anchors", [0, 1, 2])
@pytest.mark.parametrize("right", range(9))
def test_what_the_quick_start_says_about_anchors(right, right_anchors):
    scores = [1.0] * right_anchors + [0.0] * (2 - right_anchors)
    mars, grpo = advantages(right, scores), advantages(right, [])
    if right == 0:
        assert grpo == (0, 0)
        assert mars[1] < 0 if right_anchors else mars == (0, 0)
    elif right < 8 and right / 8 < right_anchors / 2:
        assert 0 < mars[0] < grpo[0]
        assert mars[1] < grpo[1] < 0
    elif right < 8 and right / 8 > right_anchors / 2:
        assert mars[0] > grpo[0] > 0
        assert grpo[1] < mars[1] < 0
