"""Two and three ranks of a cold start compute what one does; three go on from the checkpoint of two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.cold_start_job import build_files
from tests.integration.forked import RUN
from tests.integration.workshop import start

JOB = Path(__file__).with_name("cold_start_job.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    build_files(folder)
    return folder


@pytest.fixture(scope="module")
def results(folder) -> dict[int, list[dict]]:
    """Number of ranks -> what each of them wrote."""
    found = {}
    for size in (1, 2, 3):
        ranks = []
        for rank in range(size):
            output = folder / f"output-{rank}"
            output.mkdir(exist_ok=True)
            ranks.append(start([str(JOB), str(folder), str(rank), str(size)], folder, output, RUN))
        for rank in ranks:
            assert rank.finish(200) == 0, rank.stderr[-3000:]
        found[size] = [json.loads((folder / f"{size}-{rank}.json").read_text()) for rank in range(size)]
    return found


def test_the_steps_of_two_ranks_are_those_of_one(results):
    (one,), two = results[1], results[2]
    assert two[0] == two[1]
    assert len(one["metrics"]) == 3
    for ours, theirs in zip(two[0]["metrics"], one["metrics"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_three_ranks_go_on_from_the_checkpoint_of_two(results):
    (one,), three = results[1], results[3]
    assert three[0] == three[1] == three[2]
    assert three[0]["metrics"][0] == pytest.approx(one["metrics"][2], rel=1e-5)


def test_every_rank_has_the_losses_of_all_held_out_rows_and_views(results):
    (one,) = results[1]
    assert len(one["held_out"]) == 8 + 2 * 2  # rows, and the two views of two rows
    for size in (2, 3):
        assert results[size][0]["held_out"] == pytest.approx(one["held_out"], rel=1e-5)
