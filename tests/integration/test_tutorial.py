"""docs/tutorial.md: the files of the page are written, and its commands typed, one after the other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.workshop import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS_A_MODEL = "model.path=/models/"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of a machine that does other work: seconds for each command on a quiet one
def test_the_page_can_be_followed(tmp_path):
    """Only the last command needs a model that is not there. `cd` of a block holds for those after it."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    folder, output = tmp_path, []
    for match in FENCE.finditer(PAGE):
        language, text = match.groups()
        if language != "bash":
            name = re.findall(r"`([\w./]+\.(?:py|yaml|jsonl))`", PAGE[: match.start()])[-1]
            with (folder / name.removeprefix("my_project/")).open("a", encoding="utf-8") as file:
                file.write(text)
            continue
        if NEEDS_A_MODEL in text:
            assert len(text.splitlines()) == 1
            continue
        result = subprocess.run(
            ["bash", "-euc", f"{text}\npwd"], cwd=folder, env=environment, capture_output=True, text=True, timeout=800
        )
        assert result.returncode == 0, f"{text}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        *lines, last = result.stdout.splitlines()
        folder = Path(last)
        output += lines
    assert folder == tmp_path / "my_project"
    assert (folder / "runs" / "first" / "report.html").is_file()
    assert (folder / "rows.html").is_file()
    assert "\n".join(output).count("dry run: settings, data and model files are in order") == 2
    random, warm, rows = (
        [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("first", "warm", "second")
    )
    assert all(row["critic/score/mean"] < 0.3 for row in random), "no right answer"
    assert all(row["critic/score/mean"] > 0.6 for row in warm), "the cold start has taught the rows"
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 < row["reward/shortest/mean"] <= 0.3 for row in rows), "one of the equally short responses at least"
    assert all("reward/mentioned/mean" in row for row in rows)
