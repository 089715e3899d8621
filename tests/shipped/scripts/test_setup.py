"""scripts/setup.sh says what to type next. The environment here is complete, so nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = ("pyproject.toml", "scripts/setup.sh", "scripts/repair_torch_companions.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    (folder / "scripts").mkdir(parents=True)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").write_text("mars() { echo found; }\n", encoding="utf-8")
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    contents = b"".join((folder / name).read_bytes() for name in FILES)
    stamp = subprocess.run(["cksum"], input=contents, capture_output=True, check=True).stdout
    (folder / ".venv/.mars:cpu").write_bytes(stamp)
    return folder


@pytest.mark.parametrize("place", [".", ".."])
def test_the_line_to_type_next_makes_mars_a_command_of_the_terminal(checkout, place):
    folder = checkout / place
    script = checkout / "scripts/setup.sh"
    done = subprocess.run(["bash", str(script), "cpu"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    line = done.stderr.partition("type: ")[2]
    assert line.startswith("source ")
    typed = subprocess.run(["bash", "-euc", f"{line}\nmars"], cwd=folder, capture_output=True, text=True, check=True)
    assert typed.stdout == "found\n"
