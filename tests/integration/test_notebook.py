"""examples/notebooks/quickstart.ipynb: all its cells run, and do what its text says.

tests/shipped/test_notebooks.py has what needs no model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.workshop import ROOT, start

NOTEBOOK = ROOT / "examples" / "notebooks" / "quickstart.ipynb"
JOB = Path(__file__).with_name("notebook_job.py")
FIRST_STEP = re.compile(r"^mean score of the first step: (\S+) in the run, (\S+) by hand$", re.MULTILINE)


TIMEOUT_S = 800.0  # of a machine that does other work; 15 seconds on a quiet one


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_all_cells_run(tmp_path):
    """In a folder that is not the notebook's. The run's first step samples what the cells have sampled by hand."""
    folder, output = tmp_path / "folder", tmp_path / "output"
    folder.mkdir()
    output.mkdir()
    process = start([str(JOB), str(NOTEBOOK)], folder, output, MPLBACKEND="agg")
    assert process.finish(TIMEOUT_S) == 0, process.stderr.partition("nanobind: leaked")[0][-3000:]
    found = FIRST_STEP.search(process.stdout)
    assert found is not None
    in_run, by_hand = map(float, found.groups())
    assert in_run == pytest.approx(by_hand, abs=1e-12)
    assert 0 < by_hand < 1, "there is something to compare"
    run_dir = folder / "mars_notebook" / "run"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    assert (run_dir / "report.html").is_file()
    assert [path.name for path in folder.iterdir()] == ["mars_notebook"]
