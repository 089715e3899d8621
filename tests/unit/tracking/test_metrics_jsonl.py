from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError
from mars.tracking.jsonl import JsonlTracker, finite_or_none, read_metrics, to_line
from tests.examples import examples


def strict(text: str | bytes) -> object:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_one_strict_object_per_step_with_sorted_keys(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    tracker = JsonlTracker(path, None)
    tracker.log({"b": math.nan, "a": 0.1, "c": -math.inf}, 1)
    # Readable while the run goes on.
    assert path.read_text() == '{"a": 0.1, "b": null, "c": null, "step": 1}\n'
    tracker.log({"z": 1e-320, "y": 1 / 3}, 2)
    tracker.close()
    lines = path.read_text().splitlines()
    assert [strict(line)["step"] for line in lines] == [1, 2]
    assert strict(lines[1]) == {"step": 2, "z": 1e-320, "y": 1 / 3}


@examples(100)
@given(st.dictionaries(st.text(max_size=8), st.floats() | st.integers(-(2**70), 2**70), max_size=5))
def test_every_row_is_strict_json_and_floats_round_trip(metrics: dict[str, float]) -> None:
    line = to_line({key: finite_or_none(value) for key, value in metrics.items()})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert b"\x1b" not in line
    back = strict(line)
    assert back == {key: value if math.isfinite(value) else None for key, value in metrics.items()}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (torch.tensor(0.25), 0.25),
        (True, 1.0),
        (7, 7),
        (torch.tensor([1.0, 2.0]), None),
        (torch.tensor(math.nan), None),
        ("much", None),
        (None, None),
    ],
)
def test_what_counts_as_a_number(value: object, expected: float | None) -> None:
    assert finite_or_none(value) == expected


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"^run\.dir: .*metrics\.jsonl holds the metrics of another run"):
        JsonlTracker(path, None)
    assert path.read_text() == '{"step": 1}\n'


def test_a_resumed_run_has_every_step_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1, "step": 1}\n{"a": 2, "step": 2}\n{"a": 3, "step": 3}\n{"a": 4, "st')
    tracker = JsonlTracker(path, 2)
    tracker.log({"a": 30.0}, 3)
    tracker.close()
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [1, 2, 30]
    later, damaged = [record.getMessage() for record in caplog.records]
    assert later == f"{path}: rows after step 2 are dropped: 1"
    assert damaged == f"{path}: damaged lines are dropped, and their metrics are lost: 1 (line 4)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_damaged_row_within_the_kept_ones_is_not_called_a_later_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"a": 2, "st\n{"step": 3}\n' + "[]\n" * 6)
    JsonlTracker(path, 3).close()
    (damaged,) = [record.getMessage() for record in caplog.records]
    assert damaged.endswith(" lost: 7 (line 2, 4, 5, 6, 7, ...)")
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    caplog.clear()
    JsonlTracker(path, 3).close()
    assert not caplog.records


def test_resuming_before_the_first_checkpoint_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    JsonlTracker(path, 0).close()
    assert path.read_text() == ""
    JsonlTracker(tmp_path / "absent.jsonl", 5).close()


class FailingFile:
    """A raw file on a disk that has room for `room` bytes more."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115
        self.room = 0

    def write(self, block: memoryview) -> int:
        if not self.room and block:
            raise OSError(28, "No space left on device")
        taken = self.file.write(block[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_a_full_disk_ends_nothing_and_loses_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path, None)
    disk = FailingFile(path)
    tracker._file = disk
    disk.room = 1000
    tracker.log({"a": 1.0}, 1)
    disk.room = 9  # half a row
    tracker.log({"a": 2.0}, 2)
    tracker.log({"a": 3.0}, 3)
    disk.room = 1000
    tracker.log({"a": 4.0}, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert caplog.text.count("No space left on device") == 1  # said once
    disk.room = 0
    tracker.log({"a": 5.0}, 5)
    tracker.close()
    assert "the last 1 rows could not be written" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


def test_reading_merges_a_step_and_counts_damage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 2, "a": 1}\n[]\n{"step": 1}\n{"step": 2, "b": 3}\n\xff\xfe\n{"a": 1}\n{"st' + b"[" * 9000
    )
    read = read_metrics(path)
    assert read.rows == ({"step": 1}, {"step": 2, "a": 1, "b": 3})
    assert read.damaged == 4
