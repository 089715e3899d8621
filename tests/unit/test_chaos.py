"""The times at which `mars chaos` kills, what it kills, and how it compares two runs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

from mars.chaos import Kill, differences, repeated_steps, schedule, train_disturbed, train_undisturbed
from mars.cli.chaos import chaos
from mars.errors import ConfigError, WorkerError
from mars.tracking.jsonl import to_line

ROWS = [{"step": step, "loss": step / 10, "timing_s/step": step * 1.5, "fault/checkpoint": 0} for step in (1, 2, 3)]


def test_the_schedule_depends_on_the_seed_and_has_the_mean_that_was_asked_for():
    strikes = schedule(7, 20.0, 200_000.0)
    assert strikes == schedule(7, 20.0, 200_000.0) != schedule(8, 20.0, 200_000.0)
    assert strikes[:3] == schedule(7, 20.0, strikes[2].at_s + 0.01)
    times = [strike.at_s for strike in strikes]
    assert times == sorted(times)
    assert times[-1] < 200_000.0
    assert mean(b - a for a, b in pairwise(times)) == pytest.approx(20.0, rel=0.05)
    kinds = Counter(strike.target for strike in strikes)
    assert kinds["engine"] / kinds["driver"] == pytest.approx(2.0, rel=0.1)
    assert kinds["actor"] / kinds["driver"] == pytest.approx(2.0, rel=0.1)
    assert all(0 <= strike.choice < 1 for strike in strikes)
    assert schedule(7, 1e9, 1.0) == []


def saved_run(folder: Path, rows=ROWS, weights=b"weights") -> Path:
    (folder / "policy").mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(map(to_line, rows)))
    (folder / "policy" / "model.safetensors").write_bytes(weights)
    return folder


def altered(step, **values):
    return [row | (values if row["step"] == step else {}) for row in ROWS]


def test_runs_are_equal_but_for_times_and_faults(tmp_path):
    one = saved_run(tmp_path / "a")
    other = saved_run(tmp_path / "b", altered(2, **{"timing_s/step": 99.0, "fault/checkpoint": 3, "perf/x": 1}))
    assert differences(one, other) == []


@pytest.mark.parametrize(
    ("rows", "weights", "found"),
    [
        (altered(2, loss=0.25), b"weights", ["step 2: loss is 0.2 undisturbed, 0.25 disturbed"]),
        (altered(3, more=1), b"weights", ["step 3: more is None undisturbed, 1 disturbed"]),
        (ROWS, b"other", ["policy/model.safetensors: sha256 differs"]),
        (ROWS[:2], b"weights", ["steps: 1 to 3 (3 rows) undisturbed, 1 to 2 (2 rows) disturbed"]),
        ([*ROWS, ROWS[2]], b"weights", ["metrics.jsonl: 4 rows for 3 steps"]),
    ],
)
def test_every_other_difference_is_named(tmp_path, rows, weights, found):
    assert differences(saved_run(tmp_path / "a"), saved_run(tmp_path / "b", rows, weights)) == found


def test_two_runs_without_weights_are_not_equal(tmp_path):
    runs = [saved_run(tmp_path / name) for name in "ab"]
    for run in runs:
        (run / "policy" / "model.safetensors").unlink()
    assert differences(*runs) == ["policy: no weights were saved"]


def test_steps_trained_again_are_those_after_the_checkpoint_that_the_run_went_back_to():
    def event(second, name, step):
        return {"time": f"2026-01-31T12:00:{second:02d}.000+00:00", "event": name, "step": step, "details": {}}

    noon = 1769860800.0
    events = [event(0, "started", 0), event(20, "checkpoint_saved", 6), event(30, "trainer_rebuilt", 6),
              event(50, "resumed", 9)]  # fmt: skip
    assert repeated_steps(Kill(noon + 25, "actor", 1, 8), events) == 2
    assert repeated_steps(Kill(noon + 45, "driver", 1, 9), events) == 0
    assert repeated_steps(Kill(noon + 25, "engine", 1, 8), events) is None
    assert repeated_steps(Kill(noon + 55, "actor", 1, 10), events) is None  # the run ended before it was noticed


RUN = """
import sys, time, pathlib
run = pathlib.Path(sys.argv[1])
if sys.argv[2:] == ["run.resume=true"]:
    (run / "resumed").touch()
    sys.exit(0)
(run / "started").touch()
while True:
    (run / "metrics.jsonl").write_text('{"step": 4}\\n')
    time.sleep(0.05)
"""


class OnceStarted(list):
    """A schedule whose one strike is due when the run has begun."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__([self])
        self.run_dir, self.target, self.choice = run_dir, "driver", 0.5

    @property
    def at_s(self) -> float:
        return 0.0 if (self.run_dir / "started").exists() else 1e9


def test_a_killed_driver_is_resumed_and_another_failure_is_reported(tmp_path):
    log = tmp_path / "log"
    happened = train_disturbed(["-c", RUN, str(tmp_path)], tmp_path, log, OnceStarted(tmp_path))
    assert (happened.starts, [kill.target for kill in happened.kills]) == (2, ["driver"])
    assert (tmp_path / "resumed").exists()
    assert happened.kills[0].step == 4
    with pytest.raises(WorkerError, match="exit code 3"):
        train_disturbed(["-c", "import sys; sys.exit(3)"], tmp_path, log, [])
    with pytest.raises(WorkerError, match="exit code 4"):
        train_undisturbed(["-c", "import sys; sys.exit(3 + sys.flags.safe_path)"], log)  # safe_path: of -P


def test_runs_of_another_time_and_settings_of_its_own_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run.dir=x: `mars chaos` sets"):
        chaos(tmp_path, 1.0, 1.0, 0, ["run.dir=x"])
    with pytest.raises(ConfigError, match="--minutes"):
        chaos(tmp_path, 0.0, 1.0, 0, [])
    saved_run(tmp_path / "undisturbed")
    with pytest.raises(ConfigError, match="holds the runs of another time"):
        chaos(tmp_path, 1.0, 1.0, 0, [])
