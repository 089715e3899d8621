"""Reading a metrics.jsonl that grows, is cut and is replaced meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.tracking.jsonl import METRICS_FILE, JsonlTracker, read_metrics
from mars.tracking.metrics_tail import MetricsTail


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / METRICS_FILE


def everything(key: str) -> bool:
    return True


def steps(tail: MetricsTail) -> list[int]:
    tail.read()
    return [row["step"] for row in tail.rows]


def test_only_what_was_added_is_parsed(path, monkeypatch):
    tail = MetricsTail(path, lambda key: key == "kept")
    assert steps(tail) == []  # no file yet
    tracker = JsonlTracker(path, None)
    tracker.log({"kept": 1.0, "other": 2.0}, 1)
    assert steps(tail) == [1]
    parsed = []
    parse = tail._add
    monkeypatch.setattr(tail, "_add", lambda block: (parsed.append(block), parse(block)))
    tracker.log({"kept": 3.0}, 2)
    assert steps(tail) == steps(tail) == [1, 2]
    assert parsed == [b'{"kept": 3.0, "step": 2}\n']
    assert list(tail.rows) == [{"kept": 1.0, "step": 1}, {"kept": 3.0, "step": 2}]
    tracker.close()


def test_half_a_line_waits_for_its_end(path):
    tail = MetricsTail(path, everything)
    path.write_bytes(b'{"step": 1}\n{"a": 2, "st')
    assert steps(tail) == [1]
    with path.open("ab") as file:
        file.write(b'ep": 2}\nno row\n[1]\n{"step": 3')
    assert steps(tail) == [1, 2]
    assert tail.rows[1] == {"a": 2, "step": 2}


@pytest.mark.parametrize("is_new_file", [False, True])
def test_a_resumed_run_drops_rows(path, is_new_file):
    tail = MetricsTail(path, everything)
    path.write_text("".join(f'{{"step": {step}, "attempt": 1}}\n' for step in range(1, 6)))
    assert steps(tail) == [1, 2, 3, 4, 5]
    if is_new_file:
        path.rename(path.with_name("old"))
        path.write_text('{"step": 1, "attempt": 1}\n')
    else:
        os.truncate(path, len('{"step": 1, "attempt": 1}\n'))
    with path.open("a") as file:  # longer than before at the next look
        file.write("".join(f'{{"step": {step}, "attempt": 2}}\n' for step in range(2, 9)))
    assert steps(tail) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["attempt"] for row in tail.rows] == [1, 2, 2, 2, 2, 2, 2, 2]
    path.unlink()
    assert steps(tail) == []


@given(st.lists(st.integers(0, 6), max_size=12), st.lists(st.integers(0, 400), max_size=6))
def test_however_the_file_grows_the_rows_are_those_of_the_file(tmp_path_factory, numbers, cuts):
    path = tmp_path_factory.mktemp("tail") / METRICS_FILE
    content = b"".join(b'{"step": %d, "k%d": %d}\n' % (step, place % 3, place) for place, step in enumerate(numbers))
    tail = MetricsTail(path, everything)
    for end in [*sorted(min(cut, len(content)) for cut in cuts), len(content)]:
        path.write_bytes(content[:end])
        tail.read()
    assert tuple(tail.rows) == read_metrics(path).rows
