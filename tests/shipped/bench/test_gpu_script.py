"""scripts/gpu.sh with a Python that only notes how it was called, and the line about packages."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.bench.gpu_packages import NEEDED, line_and_code

ROOT = Path(__file__).parents[3]
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
    "-m scripts.bench.gpu_packages") echo "python 3; torch 2"; exit "$PACKAGES" ;;
    "-m pytest "*) echo "4 passed"; exit "$TESTS" ;;
    "scripts/bench.py "*)
        while [ $# -gt 1 ] && [ "$BENCH" -ne 4 ]; do [ "$1" != --json ] || echo "{}" >"$2"; shift; done
        echo "no GPU" >&2; exit "$BENCH" ;;
    "-m scripts.bench.gpu_report "*) echo "MFU" ;;
esac
"""


def run(folder: Path, *arguments: str, packages: int = 0, tests: int = 0, bench: int = 0):
    python, calls, temporary = folder / "python", folder / "calls", folder / "tmp"
    python.write_text(PYTHON)
    python.chmod(0o755)
    temporary.mkdir()
    codes = {"PACKAGES": packages, "TESTS": tests, "BENCH": bench}
    environment = {name: str(code) for name, code in codes.items()}
    environment |= {"MARS_PYTHON": str(python), "CALLS": str(calls), "TMPDIR": str(temporary)}
    command = ["bash", str(ROOT / "scripts" / "gpu.sh"), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, cwd=folder)
    assert list(temporary.iterdir()) == []  # the model and the runs do not stay
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_tests_come_first_and_the_benchmark_gets_the_rest_of_the_time(tmp_path):
    done, calls = run(tmp_path, "out", "--seconds", "300", "--smoke")
    assert done.returncode == 0, done.stderr
    started = ["-m scripts.bench.gpu_packages", "-m pytest", "scripts/bench.py gpu", "-m scripts.bench.gpu_report"]
    assert [" ".join(call.split()[:2]) for call in calls] == started
    bench = calls[2].split()
    assert "--smoke" in bench
    assert 270 <= int(bench[bench.index("--budget-seconds") + 1]) <= 280
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert (
        summary == "python 3; torch 2\ntests/gpu: exit code 0, 4 passed\nbenchmark: exit code 0\nMFU\n" == done.stdout
    )
    names = {"summary.txt", "tests.log", "bench.json", "bench.log", "runs.log"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize(
    ("codes", "expected", "num_calls"),
    [
        ({"packages": 4}, 4, 1),
        ({"tests": 1}, 1, 4),
        ({"tests": 124}, 1, 4),
        ({"bench": 1}, 1, 4),
        ({"bench": 4}, 4, 3),
    ],
)
def test_the_exit_code_says_what_went_wrong(tmp_path, codes, expected, num_calls):
    done, calls = run(tmp_path, "out", **codes)
    assert done.returncode == expected
    assert len(calls) == num_calls  # failed tests do not keep the benchmark from running
    assert ("no GPU" in done.stdout) == ("bench" in codes and codes["bench"] == 4)


@pytest.mark.parametrize(
    "arguments", [(), ("--smoke",), ("out", "--seconds"), ("out", "--seconds", "x"), ("out", "-x")]
)
def test_wrong_arguments_are_refused_before_anything_starts(tmp_path, arguments):
    done, calls = run(tmp_path, *arguments)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("usage: ")


def test_packages_that_are_missing_are_named_in_one_line():
    line, code = line_and_code(lambda module: module not in ("hydra", "ray"), lambda package: "1.2")
    assert code == 4
    assert "torch 1.2; transformers 1.2; missing: hydra-core (" in line
    assert line.endswith("not installed, and not needed here: ray")
    line, code = line_and_code(lambda module: True, lambda package: "1.2")
    assert (line.partition("; ")[2], code) == ("torch 1.2; transformers 1.2", 0)


def test_what_is_needed_is_imported_under_these_names():
    """All of it is installed where the tests run."""
    assert [module for module in NEEDED if find_spec(module) is None] == []
