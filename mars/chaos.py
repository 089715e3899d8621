"""Kill processes of a training run at random, and compare its metrics and policy to those of an undisturbed run.

Both runs have the same seed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from mars.errors import WorkerError
from mars.output.digests import file_digest
from mars.run_dir.outcome import POLICY_FOLDER, last_logged_step
from mars.tracking.jsonl import METRICS_FILE, read_metrics

Target = Literal["engine", "actor", "driver"]
# Processes of Ray's actors are named "ray::EngineWorker.generate" while they work.
_TITLES: dict[Target, str] = {"engine": "ray::EngineWorker", "actor": "ray::TrainerWorker"}
# The driver's death costs a whole start, so it is killed less often.
_WEIGHTS: dict[Target, int] = {"engine": 2, "actor": 2, "driver": 1}
_NOT_COMPARED = ("timing_s/", "perf/", "fault/")
_POLL_S = 0.1


@dataclass(frozen=True)
class Strike:
    """One planned kill. at_s: seconds of training before it. The time from each start of the driver to the first step
    that it finishes does not count.

    choice: in [0, 1); selects one of the processes of kind `target`.
    """

    at_s: float
    target: Target
    choice: float


@dataclass(frozen=True)
class Kill:
    """A process that was killed. time: seconds since 1970. step: in the last row
    of metrics.jsonl at that time; 0 if it has no row."""

    time: float
    target: Target
    pid: int
    step: int


@dataclass(frozen=True)
class Disturbed:
    """What happened to a run. starts: how often its driver was started. ended: exit codes of drivers that ended by
    themselves because too many workers were lost; the run was resumed after each. seconds: from first start to end."""

    kills: tuple[Kill, ...]
    starts: int
    ended: tuple[int, ...]
    seconds: float


def schedule(seed: int, mtbf_s: float, seconds: float) -> list[Strike]:
    """The planned kills: a Poisson process with one kill per `mtbf_s` seconds on average, up to the time `seconds`."""
    source = random.Random(seed)
    strikes, now = [], source.expovariate(1 / mtbf_s)
    while now < seconds:
        (target,) = source.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        strikes.append(Strike(now, target, source.random()))
        now += source.expovariate(1 / mtbf_s)
    return strikes


def train_undisturbed(command: Sequence[str], log: Path) -> float:
    """Run the command; returns its seconds. Raises WorkerError if it fails."""
    start = time.monotonic()
    with _started(command, log) as driver:
        code = driver.wait()
    if code:
        raise WorkerError(f"the undisturbed run ended with exit code {code}; its messages are in {log}")
    return time.monotonic() - start


def train_disturbed(command: Sequence[str], run_dir: Path, log: Path, strikes: Sequence[Strike]) -> Disturbed:
    """Run the command, kill its driver or the driver's workers, and start it again with run.resume=true.

    The run is started again after a kill of its driver, and after it ended with exit code 5 because workers were lost.
    Raises WorkerError for any other end, and for exit code 5 before the first kill.
    """
    begin = time.monotonic()
    left, kills, ended, starts, trained = list(strikes), [], [], 0, 0.0
    while True:
        resume = ["run.resume=true"] if starts else []
        starts += 1
        killed_driver, rows, mark = False, _changed(run_dir), time.monotonic()
        with _started([*command, *resume], log) as driver:
            while driver.poll() is None:
                time.sleep(_POLL_S)
                now = time.monotonic()
                if _changed(run_dir) != rows:  # it has finished a step since its start
                    trained += now - mark
                mark = now
                if not left or trained < left[0].at_s:
                    continue
                strike = left.pop(0)
                process = _victim(driver.pid, strike)
                if process is None:  # none of its kind runs at the moment
                    continue
                kills.append(Kill(time.time(), strike.target, process.pid, last_logged_step(run_dir) or 0))
                process.kill()
                killed_driver = strike.target == "driver"
        if driver.returncode == 0:
            return Disturbed(tuple(kills), starts, tuple(ended), time.monotonic() - begin)
        if killed_driver:
            continue
        if driver.returncode != WorkerError.exit_code or not kills:
            raise WorkerError(f"the run ended with exit code {driver.returncode}; its messages are in {log}")
        ended.append(driver.returncode)


def repeated_steps(kill: Kill, events: Sequence[dict[str, Any]]) -> int | None:
    """How many steps were trained again because of this kill.

    None for an engine, or if neither a driver was started nor a trainer rebuilt after the kill.
    """
    if kill.target == "engine":
        return None
    for entry in events:
        if datetime.fromisoformat(entry["time"]).timestamp() < kill.time:
            continue
        if entry["event"] in ("resumed", "trainer_rebuilt", "started"):
            return max(kill.step - (entry["step"] or 0), 0)
    return None


def differences(undisturbed: Path, disturbed: Path) -> list[str]:
    """The metrics, and the files of the policy, in which two runs differ. The metrics
    `timing_s/*`, `perf/*` and `fault/*` are not compared.

    Raises OSError if a run has no metrics.
    """
    found = []
    rows = [_rows(undisturbed), _rows(disturbed)]
    if list(rows[0]) != list(rows[1]):
        found.append(f"steps: {_range(rows[0])} undisturbed, {_range(rows[1])} disturbed")
    num_lines = len((disturbed / METRICS_FILE).read_bytes().splitlines())
    if num_lines != len(rows[1]):
        found.append(f"{METRICS_FILE}: {num_lines} rows for {len(rows[1])} steps")
    for step in rows[0].keys() & rows[1].keys():
        one, other = rows[0][step], rows[1][step]
        names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        found += [f"step {step}: {name} is {one.get(name)} undisturbed, {other.get(name)} disturbed" for name in names]
    weights = [_weights(undisturbed), _weights(disturbed)]
    names = sorted(weights[0].keys() | weights[1].keys())
    found += [f"policy/{name}: sha256 differs" for name in names if weights[0].get(name) != weights[1].get(name)]
    if not names:
        found.append("policy: no weights were saved")
    return found


def _changed(run_dir: Path) -> int | None:
    """When the metrics of a run were last written."""
    try:
        return (run_dir / METRICS_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _rows(run_dir: Path) -> dict[int, dict[str, Any]]:
    rows = read_metrics(run_dir / METRICS_FILE).rows
    return {row["step"]: {k: v for k, v in row.items() if not k.startswith(_NOT_COMPARED)} for row in rows}


def _weights(run_dir: Path) -> dict[str, str]:
    return {path.name: file_digest(path).sha256 for path in (run_dir / POLICY_FOLDER).glob("*.safetensors")}


def _range(rows: dict[int, Any]) -> str:
    return f"{min(rows)} to {max(rows)} ({len(rows)} rows)" if rows else "none"


def _victim(driver: int, strike: Strike) -> psutil.Process | None:
    """The driver, or one of the workers among its descendants."""
    try:
        process = psutil.Process(driver)
        if strike.target == "driver":
            return process
        found = [child for child in process.children(recursive=True) if _is(child, _TITLES[strike.target])]
    except psutil.Error:
        return None
    found.sort(key=lambda child: child.pid)
    return found[int(strike.choice * len(found))] if found else None


def _is(process: psutil.Process, title: str) -> bool:
    try:
        return " ".join(process.cmdline()).startswith(title)
    except psutil.Error:
        return False


@contextmanager
def _started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    start = [sys.executable, "-P", *command]  # -P: the current folder may have files named like Python's modules
    with log.open("ab") as output:
        driver = subprocess.Popen(start, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield driver
    finally:
        if driver.poll() is None:
            driver.terminate()
        driver.wait()
