"""Shared by the benchmarks of whole runs: launch settings, making the workload, and progress on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LAUNCHES: Mapping[str, tuple[str, ...]] = {
    "ray": (),
    "local": ("cluster=local", "cluster.device=cpu", "actor.num_workers=1"),
}
"""Overrides of the experiment."""


def make_workload(folder: Path, num_prompts: int, shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Write model and rows to `folder` in a separate process, so that this one stays small while others are timed.

    shapes: (images per prompt, pixels of their sides). Each shape gets its own file of rows.
    """
    say("making the workload")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scripts.bench.workload",
            str(folder),
            str(num_prompts),
            *(f"{n}x{side}" for n, side in shapes),
        ],
        env=child_environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def child_environment() -> dict[str, str]:
    """This process's environment, changed so that Python finds this checkout first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
