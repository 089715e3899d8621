"""A stand-in for Python in the run scripts: it records the command that it is asked to run."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mars.config.command_line import parse_command_line
from mars.config.load import load_config
from mars.config.schema import TrainConfig

ROOT = Path(__file__).parents[2]

# Has a package mars, and runs nothing.
RECORDER = """#!/usr/bin/env bash
[ "$1" = -c ] && exit 0
printf '%s\\0' "$PWD" "$@" >"$RECORD"
"""


@dataclass(frozen=True)
class Call:
    """How a script ended. argv: the folder and the arguments of its Python; None if it started none."""

    returncode: int
    stdout: str
    stderr: str
    argv: list[str] | None

    @property
    def of_mars_main(self) -> list[str]:
        """The arguments of `python -m mars.main`."""
        assert self.argv is not None, self.stderr
        _, module, program, *rest = self.argv
        assert (module, program) == ("-m", "mars.main")
        return rest

    @property
    def config(self) -> TrainConfig:
        """The configuration that mars.main loads."""
        line = parse_command_line("train", "mars", self.of_mars_main)
        return load_config("train", line.overrides, line.config_dirs)


def call_script(script: str, *arguments: str, folder: Path, cwd: Path, **environment: str) -> Call:
    """`bash SCRIPT ARGUMENTS` from `cwd`. script: a path, relative to the project. folder: where the stand-in lies."""
    recorder, record = folder / "python", folder / "record"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    record.unlink(missing_ok=True)
    given = {**os.environ, "MARS_PYTHON": str(recorder), "RECORD": str(record), **environment}
    done = subprocess.run(
        ["bash", str(ROOT / script), *arguments], cwd=cwd, env=given, capture_output=True, text=True, timeout=60
    )
    argv = record.read_text().split("\0")[:-1] if record.exists() else None
    return Call(done.returncode, done.stdout, done.stderr, argv)
