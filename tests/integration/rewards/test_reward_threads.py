"""Worker processes that score several answers at once: what goes wrong with one answer does no harm to the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mars.errors import ConfigError
from mars.rewards import process
from mars.rewards.functions import RewardsBySet, load_reward
from mars.rewards.pool import RewardPool
from tests.builders import make_item

FILE = Path(__file__).parents[2] / "unit" / "rewards" / "user_rewards.py"


@pytest.fixture(scope="module")
def pool() -> Iterator[RewardPool]:
    """One process with four threads, shared by all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_REPORT_TIMEOUT_S", 0.5)
        pool = RewardPool(f"{FILE}:misbehave", "strict", num_workers=1, timeout_s=1.0, concurrency=4)
        yield pool
        pool.close()


def test_four_answers_are_scored_at_once_and_the_order_stays() -> None:
    pool = RewardPool(f"{FILE}:misbehave", "strict", num_workers=1, timeout_s=60.0, concurrency=4)
    (pid,) = pool.pids
    texts = ["meet", "meet a", "meet bb", "meet ccc", *("x" * (37 * number % 101) for number in range(60))]
    assert [result.score for result in pool.score(map(make_item, texts))] == [len(text) for text in texts]
    assert pool.pids == (pid,)
    pool.close()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("hang", "timed out after 1 s"),
        ("regex", "timed out after 1 s"),
        ("null", "its worker died; killed by SIGSEGV"),
        ("interrupt", "its worker died; exit code 1"),
        ("raise me", "ValueError: cannot read me"),
    ],
)
def test_a_bad_answer_costs_its_sample_only(pool: RewardPool, response: str, reason: str) -> None:
    before = {psutil.Process(pid) for pid in pool.pids}
    texts = ["a", "bb", response, "cccc", "ddddd", "eeeeee"]
    results = pool.score([make_item(text) for text in texts])
    assert [result.score for result in results if result.failed is None] == [1, 2, 4, 5, 6]
    assert results[2].failed is not None
    assert results[2].failed.startswith(reason)
    replaced = "timed out" in reason or "died" in reason
    assert not psutil.wait_procs(before, timeout=10)[1] if replaced else set(pool.pids) == {item.pid for item in before}


def test_all_threads_may_be_late_at_once(pool: RewardPool) -> None:
    results = pool.score([make_item("hang")] * 5 + [make_item("bb")])
    assert [result.failed for result in results] == ["timed out after 1 s"] * 5 + [None]


def test_an_answer_whose_reward_forks_is_scored_once(pool: RewardPool) -> None:
    texts = ["a", "fork", "bb", "fork", "ccc", "fork"]
    assert [result.score for result in pool.score(map(make_item, texts))] == [len(text) for text in texts]


def test_the_answers_of_a_prompt_are_one_call_that_fails_as_one(tmp_path: Path) -> None:
    (tmp_path / "lists.py").write_text(LISTS)
    pool = RewardPool(
        f"{tmp_path / 'lists.py'}:f", "strict", num_workers=1, timeout_s=10.0, concurrency=4, by_prompt=True
    )
    secret = make_item("cannot travel", secret=lambda: None)
    calls = [("aa", "b"), ("crash", "b"), ("raise", "b", "c"), ("ddd",)]
    items = [tuple(map(make_item, call)) for call in calls]
    results = pool.score([*items, (make_item("a"), secret, make_item("bb")), make_item("alone"), (secret,)])
    pool.close()
    scores = [result.score if result.failed is None else result.failed[:12] for result in results]
    assert scores == [
        *(2.2, 2.1),
        *["its worker d"] * 2,
        *["ValueError: "] * 3,
        1.3,
        *(2.1, "AttributeErr", 2.2),
        1.5,
        "AttributeErr",
    ]


LISTS = """
import ctypes

def f(items):
    texts = [item.response for item in items]
    if "crash" in texts:
        ctypes.string_at(0)
    if "raise" in texts:
        raise ValueError("no")
    return [len(texts) + len(text) / 10 for text in texts]
"""


def test_threads_import_modules_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WORDS = 2\n")
    code = "def f(item):\n    import helper\n    return float(helper.WORDS)\n"
    (tmp_path / "one.py").write_text(code)
    (tmp_path / "two.py").write_text("import helper\n" + code)
    by_set = {"test": f"{tmp_path / 'one.py'}:f", "other": f"{tmp_path / 'two.py'}:f"}
    pool = RewardPool(RewardsBySet("", by_set), "strict", num_workers=1, timeout_s=10.0, concurrency=4)
    items = [replace(make_item("x"), data_source=name) for name in ("test", "other") * 8]
    assert [result.score for result in pool.score(items)] == [2.0] * 16
    pool.close()


def test_files_in_two_folders_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "reward.py").write_text("def f(item): return 1.0")
    by_set = {name: f"{tmp_path / name / 'reward.py'}:f" for name in ("a", "b")}
    with pytest.raises(ConfigError, match=rf"reward\.concurrency: .*{tmp_path}/a, {tmp_path}/b"):
        load_reward(RewardsBySet("", by_set), "strict", in_threads=True)
