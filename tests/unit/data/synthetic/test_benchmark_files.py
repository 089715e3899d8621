"""The benchmark's files are whole or not there: a study takes rows that are there for complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import parquet

from mars.data.synthetic.benchmark_rows import Teacher, write_benchmark
from mars.data.synthetic.write import SetSizes


def test_rows_that_could_not_be_written_leave_no_file(tmp_path, monkeypatch):
    def torn(table, path):
        Path(path).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", torn)
    with pytest.raises(OSError, match="No space"):
        write_benchmark(tmp_path, seed=0, sizes=SetSizes(train=0, test=2, cold_start=0), teacher=Teacher(0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["test"], "the folder of the images alone"
