"""A run whose reward takes all answers to a prompt at once, in threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.workshop import Workshop

LOCAL = ("cluster=local", "cluster.device=cpu", "actor.num_workers=1", "rollout.engine=hf", "run.num_steps=1")

CODE = """
from mars.rewards.call_facts import count

def one(item):
    return (sum(map(ord, item.response)) % 7) / 6

def lists(items):
    assert len(items) in (1, 4 + 2), len(items)  # the self-test's; those to the multi view and to two anchor views
    assert [item.view is None for item in items] == [True, True, True, True, False, False][: len(items)]
    count("judge/requests")
    return [one(item) for item in items]
"""


@pytest.mark.slow
def test_a_run_with_lists_in_threads_is_the_run_with_single_answers(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(CODE)
    single = workshop.train(tmp_path / "single", *LOCAL, f"reward.function='{tmp_path}/reward.py:one'")
    lists = [f"reward.function='{tmp_path}/reward.py:lists'", "reward.by_prompt=true", "reward.concurrency=3"]
    together = workshop.train(tmp_path / "together", *LOCAL, *lists)
    assert (single.returncode, together.returncode) == (0, 0), together.stderr[:3000]
    (before,), (after,) = single.metrics, together.metrics
    assert after.pop("judge/requests") == 4
    timed = ("timing_s/", "perf/")
    for row in (before, after):
        for key in [key for key in row if key.startswith(timed)]:
            del row[key]
    assert before == pytest.approx(after, rel=0, abs=0)
    assert before["reward/failed"] == 0
