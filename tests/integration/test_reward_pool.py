"""Worker processes: faults cost one sample each, order stays, nothing is left behind."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mars.background import Background
from mars.errors import ConfigError, WorkerError
from mars.rewards.functions import RewardsBySet
from mars.rewards.local import LocalScorer
from mars.rewards.pool import RewardPool
from mars.types import RewardInput
from tests.builders import make_item

FILE = Path(__file__).parents[1] / "unit" / "rewards" / "user_rewards.py"
TIMED_OUT = "timed out after 1 s"


@pytest.fixture(scope="module")
def pool() -> Iterator[RewardPool]:
    """Shared by all tests here: whatever one of them does to it, the next must find it whole."""
    pool = RewardPool(f"{FILE}:misbehave", "strict", num_workers=2, timeout_s=1.0)
    yield pool
    pool.close()


def assert_ended(pid: int) -> None:
    """Waits, without polling, until a process is gone (or was before)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 5)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


def test_order_and_empty_batches(pool: RewardPool) -> None:
    lengths = [(37 * number) % 101 for number in range(150)]
    assert [result.score for result in pool.score([make_item("x" * length) for length in lengths])] == lengths
    assert pool.score([]) == []


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("hang", TIMED_OUT),
        ("regex", TIMED_OUT),
        ("deaf", TIMED_OUT),
        ("exit", "its worker died; exit code 3"),
        ("crash", "its worker died; killed by SIGSEGV"),
        ("null", "its worker died; killed by SIGSEGV"),
        ("close", "its worker died"),
        ("stop", TIMED_OUT),
        ("group", "its worker died; killed by SIGKILL"),
        ("patch", "its worker died"),
        ("raise me", "ValueError: cannot read me"),
        ("leave", "SystemExit: 4"),
        ("recurse", "RecursionError"),
        ("nan", "score is not a finite number; got nan"),
    ],
)
def test_a_bad_answer_costs_its_sample_only(pool: RewardPool, response: str, reason: str) -> None:
    texts = ["a", "bb", response, "cccc", "ddddd", "eeeeee"]
    results = pool.score([make_item(text) for text in texts])
    assert results[2].failed is not None
    assert results[2].failed.startswith(reason)
    assert [result.score for result in results if result.failed is None] == [1, 2, 4, 5, 6]


def test_faults_side_by_side(pool: RewardPool) -> None:
    texts = ["exit", "hang", "a", "nan", "bb", "deaf", "raise", "ccc"] * 2
    results = pool.score([make_item(text) for text in texts])
    scores = [None if result.failed else result.score for result in results]
    assert scores == [None, None, 1.0, None, 2.0, None, None, 3.0] * 2


def test_files_import_what_lies_beside_them_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    by_set = {}
    for name, points in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"POINTS = {points}")
        (tmp_path / name / "reward.py").write_text("import helper\ndef f(item): return helper.POINTS")
        by_set[name] = f"{tmp_path / name / 'reward.py'}:f"
    monkeypatch.chdir("/")
    pool = RewardPool(RewardsBySet("", by_set), "strict", num_workers=2, timeout_s=10.0)
    items = [replace(make_item(""), data_source=name) for name in ("one", "two", "two", "one") * 3]
    assert [result.score for result in pool.score(items)] == [1.0, 2.0, 2.0, 1.0] * 3
    pool.close()


@pytest.mark.parametrize("response", ["fork", "print"])
def test_an_answer_whose_reward_forks_or_prints_is_scored_once(pool: RewardPool, capfd, response) -> None:
    texts = ["a", "bb", response, "cccc", "ddddd", "eeeeee"] * 3
    results = pool.score([make_item(text) for text in texts])
    assert [result.score for result in results] == [len(text) for text in texts]


def test_a_file_that_forks_while_it_loads_answers_once(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("import os\nos.fork()\ndef f(item): return float(len(item.response))")
    pool = RewardPool(f"{tmp_path / 'reward.py'}:f", "strict", num_workers=1, timeout_s=10.0)
    assert [result.score for result in pool.score([make_item("x" * n) for n in range(20)])] == list(range(20))
    pool.close()


def test_the_same_results_as_in_process() -> None:
    items = [make_item(f"<think>t</think><answer>{word}</answer>", truth) for word in "abc" for truth in ("a", "b", "")]
    pool = RewardPool("vqa", "strict", num_workers=1, timeout_s=5.0)
    assert pool.score(items) == LocalScorer("vqa", "strict").score(items)
    pool.close()


def test_a_reward_started_program_ends_with_its_answer(pool: RewardPool, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    (result,) = pool.score([make_item(f"child {file}")])
    assert result.failed == TIMED_OUT
    assert_ended(int(file.read_text()))


def test_whoever_asked_is_told_of_every_start() -> None:
    seen: list[int] = []

    def look() -> None:
        seen.extend(child.pid for child in psutil.Process().children())

    pool = RewardPool(f"{FILE}:misbehave", "strict", 1, 30.0, on_start=look)
    try:
        first = pool.pids
        assert set(first) <= set(seen)
        os.kill(first[0], signal.SIGKILL)
        pool.score([make_item("a")])
        assert pool.pids != first
        assert set(pool.pids) <= set(seen)
    finally:
        pool.close()


def test_idle_workers_that_are_killed_cost_nothing(pool: RewardPool) -> None:
    pool.score([make_item("a")])
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    assert [result.score for result in pool.score([make_item("a")] * 9)] == [1.0] * 9


def test_a_stopped_worker_is_replaced() -> None:
    # A deadline of its own: on a busy machine the other worker must not be late as well.
    pool = RewardPool(f"{FILE}:misbehave", "strict", num_workers=2, timeout_s=2.0)
    try:
        pool.score([make_item("a")])
        stopped = pool.pids[0]
        os.kill(stopped, signal.SIGSTOP)
        results = pool.score([make_item("a" * 200_000)] * 6)  # more than a socket holds: sending must not hang either
        assert sum(result.failed is not None for result in results) <= 1
        assert stopped not in pool.pids
        assert_ended(stopped)
    finally:
        pool.close()


def test_items_that_cannot_travel_fail_alone(pool: RewardPool) -> None:
    results = pool.score([make_item("a"), make_item("b", secret=lambda: None), make_item("cc", text="\ud800")])
    assert [result.score for result in results if result.failed is None] == [1.0, 2.0]
    assert results[1].failed is not None


def test_an_interrupted_batch_leaves_nothing_for_the_next(pool: RewardPool, monkeypatch) -> None:
    def interrupted(batch: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.score([make_item("aaaa")] * 4)
    assert [result.score for result in pool.score([make_item("b")] * 4)] == [1.0] * 4


def test_distinct_failures_are_logged_once(caplog) -> None:
    pool = RewardPool(f"{FILE}:misbehave", "strict", num_workers=1, timeout_s=5.0)
    with caplog.at_level(logging.ERROR):
        pool.score([make_item(text) for text in ("raise one", "raise two", "nan")])
        pool.score([make_item(text) for text in ("raise three", "nan")])
    pool.close()
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "Traceback" in texts[0]
    assert "in misbehave" in texts[0]


def test_close_ends_all_workers_even_hanging_ones() -> None:
    pool = RewardPool(f"{FILE}:misbehave", "strict", num_workers=2, timeout_s=60.0)
    pids = pool.pids
    assert len(pids) == 2
    pool.close()
    pool.close()
    for pid in pids:
        assert_ended(pid)
    with pytest.raises(ValueError, match="closed"):
        pool.score([make_item("a")])


@pytest.mark.parametrize(
    ("code", "fragment"),
    [
        ("import no_such_module", "no_such_module"),
        ("x = 1", "has no 'f'"),
        ("import os; os._exit(5)", "exit code 5"),
        ("def f(item, other): ...", "'other'"),
    ],
)
def test_what_cannot_be_loaded_is_a_config_error(tmp_path: Path, code: str, fragment: str) -> None:
    (tmp_path / "reward.py").write_text(code)
    with pytest.raises(ConfigError, match=r"reward\.function: .*" + fragment):
        RewardPool(f"{tmp_path / 'reward.py'}:f", "strict", num_workers=1, timeout_s=1.0)


def test_a_wrong_name_is_found_before_any_process_starts() -> None:
    with pytest.raises(ConfigError, match=r"reward\.function: no such file"):
        RewardPool("/nowhere/reward.py:f", "strict", num_workers=1, timeout_s=1.0)


def test_no_worker_left(tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text("import os\ndef f(item): os._exit(1) if item.response else None")
    pool = RewardPool(f"{file}:f", "strict", num_workers=1, timeout_s=5.0)
    file.unlink()
    with pytest.raises(WorkerError, match="no such file"):
        pool.score([make_item("x")])
    pool.close()


DRIVER = """
import sys
from mars.rewards.pool import RewardPool
from mars.types import RewardInput

pool = RewardPool(sys.argv[1], "strict", num_workers=2, timeout_s=300.0)
print(*pool.pids, flush=True)
print(pool.score([RewardInput("test", None, sys.argv[2], "", None, None, {})]), flush=True)
if sys.argv[2] != "regex":
    sys.exit()  # without close()
"""


def start_driver(tmp_path: Path, name: str, response: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A program with a pool and no `if __name__ == "__main__"`."""
    (tmp_path / "torch.py").write_text("")  # the driver finds it first; a worker would, if it imported the driver
    (tmp_path / "driver.py").write_text("import torch\n" + DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), f"{FILE}:{name}", response]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    return driver, [int(pid) for pid in driver.stdout.readline().split()]


def test_workers_end_with_a_killed_parent_even_inside_a_c_loop(tmp_path: Path) -> None:
    driver, pids = start_driver(tmp_path, "misbehave", "regex")
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "hanging\n"
        driver.kill()
    assert len(pids) == 2
    for pid in pids:
        assert_ended(pid)


def test_workers_import_neither_the_main_module_nor_torch(tmp_path: Path) -> None:
    driver, pids = start_driver(tmp_path, "torch_loaded", "x")
    with driver:
        assert driver.stdout is not None
        assert "RewardResult(score=0.0" in driver.stdout.read()
    for pid in pids:
        assert_ended(pid)


PIPE_REWARD = """
import os, signal
def f(item):
    with open(item.response, "w") as pipe:
        pipe.write(str(os.getpid()))
    if item.truth == "hang":
        signal.pause()
    return 1.0
"""


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Reading it waits until a reward function writes to it."""
    (tmp_path / "reward.py").write_text(PIPE_REWARD)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_an_answer_is_scored_while_the_next_one_is_awaited(pipe: Path) -> None:
    pool = RewardPool(f"{pipe.parent / 'reward.py'}:f", "strict", num_workers=1, timeout_s=30.0)

    def answers() -> Iterator[RewardInput]:
        for _ in range(3):
            yield make_item(str(pipe))
            assert int(pipe.read_text()) in pool.pids

    assert [result.score for result in pool.score(answers())] == [1.0] * 3
    pool.close()


def test_the_deadline_passes_while_the_next_answer_is_awaited(pipe: Path) -> None:
    pool = RewardPool(f"{pipe.parent / 'reward.py'}:f", "strict", num_workers=1, timeout_s=1.0)

    def answers() -> Iterator[RewardInput]:
        yield make_item(str(pipe), "hang")
        assert_ended(int(pipe.read_text()))
        yield make_item(str(pipe))
        pipe.read_text()

    late, fine = pool.score(answers())
    pool.close()
    assert late.failed == TIMED_OUT
    assert (fine.failed, fine.score) == (None, 1.0)


def test_a_stopped_call_gives_up_what_it_scores_and_the_pool_goes_on(pipe: Path) -> None:
    """Its deadline is far away."""
    pool = RewardPool(f"{pipe.parent / 'reward.py'}:f", "strict", num_workers=1, timeout_s=300.0)
    hanging: list[int] = []

    def lose_the_trainer() -> None:
        with Background(lambda: pool.score([make_item(str(pipe), "hang")]), name="sampling"):
            hanging.append(int(pipe.read_text()))
            raise WorkerError("actor-0 died")

    def answers() -> Iterator[RewardInput]:
        yield make_item(str(pipe))
        pipe.read_text()

    with pytest.raises(WorkerError, match="actor-0 died"):
        lose_the_trainer()
    assert_ended(hanging[0])
    assert not {"rewards", "sampling"} & {thread.name for thread in threading.enumerate()}
    assert [result.score for result in pool.score(answers())] == [1.0]
    pool.close()


def test_what_the_stream_raises_ends_the_call_and_leaves_nothing(pool: RewardPool) -> None:
    def answers() -> Iterator[RewardInput]:
        yield make_item("a")
        yield make_item("hang")
        raise WorkerError("the engine is gone")

    with pytest.raises(WorkerError, match="the engine is gone"):
        pool.score(answers())
    assert "rewards" not in {thread.name for thread in threading.enumerate()}
    assert [result.score for result in pool.score([make_item("b")] * 4)] == [1.0] * 4
