"""`mars quickstart`: make data and a tiny model, train it, and write a report.

Each stage is one or two commands that a user could type, each run in a process of its own. When a stage is done, its
folder gets the file `.complete`, so that a second call reuses it. A folder of data or of a model without this file is
removed and made again. An interrupted training goes on if the settings are the same as before. If they are not, the
folder of the earlier training is renamed to run.1, run.2 ..., and a new one begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from mars.config.folders import key_of, quoted, shipped_folder
from mars.errors import ConfigError
from mars.run_dir.lock import refuse_busy

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "",
    "HF_HUB_OFFLINE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
_COMPLETE, _SETTINGS = ".complete", ".run_settings"
_FIXED = {
    "run.dir": "name another folder with --dir",
    "run.resume": "leave it out: an interrupted training goes on when its command is repeated",
}
_TRAINING = "MARS-GRPO"
_MARS, _TRAIN, _SFT = ["-m", "mars.cli.main"], ["-m", "mars.main"], ["-m", "mars.sft"]
# Evaluation uses one process, however the model was trained.
_ALONE = ["cluster.kind=local", "actor.num_workers=1", "rollout.num_workers=1", "rollout.max_staleness=0"]


def quickstart(folder: Path, overrides: Sequence[str]) -> None:
    """Make data and a tiny model, train and evaluate the model, and write the report.

    folder: for everything. overrides: settings of the training that differ from experiment=quickstart.
    Raises ConfigError if the folder cannot be written or `overrides` sets run.dir or run.resume,
    BusyError if another process trains in the folder, and typer.Exit with the exit code of a command that fails.
    """
    for text in overrides:
        key = key_of(text)
        if key in _FIXED:
            raise ConfigError(f"{key}: `mars quickstart` sets it itself; got {text}; {_FIXED[key]}")
    _QuickStart(folder.absolute(), overrides).run()


class _QuickStart:
    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self._folder = folder
        self._run_dir = folder / "run"
        self._data = folder / "data"
        self._overrides = list(overrides)
        self._begin = time.monotonic()

    def run(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for run_dir in (self._folder / "cold_start", self._run_dir):
                refuse_busy(run_dir)
            self._make_inputs()
            self._train_once()
        except OSError as error:
            wrong = f"--dir: cannot write {error.filename or self._folder}: {error.strerror or error}"
            raise ConfigError(f"{wrong}; give another folder") from error
        after = self._run_dir / "evaluation" / "after.json"
        if not after.is_file() or not after.stat().st_size:
            self._say("evaluation of the trained policy, in a fresh process")
            _run(self._evaluate(after))
        self._say("result")
        _run([*_MARS, "report", str(self._run_dir)])

    def _make_inputs(self) -> None:
        scenes, random = self._data / "scenes", self._folder / "random"
        sizes = ["--train", "1024", "--test", "400", "--cold-start", "4096", "--bias", "0.5"]
        self._stage(
            "synthetic visible + infrared scenes",
            self._data,
            [*_MARS, "data", "synth", str(scenes), "--seed", "0", *sizes],
            [*_MARS, "data", "convert", "llvip", str(scenes), str(self._data), "--licence", "CC0-1.0 (synthetic)"],
        )
        self._stage("tiny model", random, [*_MARS, "data", "synth", str(random), "--model", "tiny", "--seed", "0"])
        cold_start, rows = self._folder / "cold_start", scenes / "cold_start.parquet"
        settings = [f"run.dir={_quoted(cold_start)}", f"model.path={_quoted(random)}"]
        self._stage(
            "supervised cold start",
            cold_start,
            [*_SFT, "experiment=quickstart_sft", *settings, f"data.train_files=[{_quoted(rows)}]"],
        )

    def _train(self) -> list[str]:
        settings = [
            f"run.dir={_quoted(self._run_dir)}",
            f"model.path={_quoted(self._folder / 'cold_start' / 'policy')}",
            f"data.train_files=[{_quoted(self._data / 'train.parquet')}]",
            f"data.eval_files=[{_quoted(self._data / 'test.parquet')}]",
        ]
        return [*_TRAIN, "experiment=quickstart", *settings, *self._overrides]

    def _evaluate(self, after: Path) -> list[str]:
        metrics = (self._run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        settings = ["experiment=quickstart", f"run.dir={_quoted(self._run_dir)}", *self._overrides, *_ALONE]
        asked = [str(self._run_dir / "policy"), str(self._data / "test.parquet")]
        result = ["--name", "after", "--step", str(json.loads(metrics[-1])["step"]), "--out", str(after)]
        return [*_MARS, "eval", "run", *asked, *settings, *result]

    def _stage(self, name: str, folder: Path, *commands: list[str]) -> None:
        """Run the commands, which make `folder`, unless it is already complete."""
        if (folder / _COMPLETE).exists():
            self._say(f"{name}: already done")
            return
        self._say(name)
        if folder.exists():
            shutil.rmtree(folder)
        for command in commands:
            _run(command)
        (folder / _COMPLETE).touch()

    def _train_once(self) -> None:
        """Train, or go on with a training of these settings."""
        noted = self._folder / _SETTINGS
        same = noted.is_file() and noted.read_text(encoding="utf-8") == self._settings()
        if same and (self._run_dir / _COMPLETE).exists():
            self._say(f"{_TRAINING}: already done")
            return
        goes_on = same and self._run_dir.exists()
        if not goes_on:
            self._set_run_aside()
            noted.write_text(self._settings(), encoding="utf-8")
        self._say(f"{_TRAINING}, from the newest checkpoint of the interrupted run" if goes_on else _TRAINING)
        _run([*self._train(), *(["run.resume=true"] if goes_on else [])])
        (self._run_dir / _COMPLETE).touch()

    def _set_run_aside(self) -> None:
        if not self._run_dir.exists():
            return
        number = 1
        while os.path.lexists(old := self._folder / f"run.{number}"):
            number += 1
        self._run_dir.rename(old)
        typer.echo(f"other settings than last time: the earlier run is now {old}")

    def _settings(self) -> str:
        """A checksum of the experiment's file and the overrides."""
        experiment = (shipped_folder() / "experiment" / "quickstart.yaml").read_text(encoding="utf-8")
        return hashlib.sha256("\0".join([experiment, *self._overrides]).encode()).hexdigest()

    def _say(self, name: str) -> None:
        typer.echo(f"\n== {name} ({time.monotonic() - self._begin:.0f} s)")


def _quoted(path: Path) -> str:
    return quoted(str(path))


def _run(arguments: Sequence[str]) -> None:
    """Run `python -P arguments` to its end. If this process is interrupted, it first stops the other one.

    -P: the current folder may contain a folder named mars, or files named like Python's modules.
    """
    process = subprocess.Popen([sys.executable, "-P", *arguments], env={**os.environ, **_ENVIRONMENT})
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if code:
        raise typer.Exit(code if code > 0 else 128 - code)  # a signal's number is negative here; a shell gives 128 + it
