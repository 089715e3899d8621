"""A reward in processes of its own: its settings reach them, and `mars reward try` ends one that hangs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mars.build import build_scorer
from mars.rewards.trial import item_of, run_trials
from mars.types import RewardInput

FILE = Path(__file__).parents[2] / "unit" / "rewards" / "user_rewards.py"
TWO_BOXES = "<think>t</think><answer>```json\n[[0, 0, 10, 10], [20, 0, 30, 10]]\n```</answer>"


@pytest.mark.parametrize(("scorer", "score"), [("strict", 1.75), ("compat", 1.25)])
def test_the_scorer_reaches_the_worker_processes(scorer, score):
    """Two boxes for one true box, in the right format: the scorers differ in what the second box costs."""
    settings = {"functions": {}, "num_workers": 1, "concurrency": 1, "by_prompt": False, "timeout_s": 30.0}
    pool = build_scorer(SimpleNamespace(reward=SimpleNamespace(function="grounding", scorer=scorer, **settings)))
    item = RewardInput("test", None, TWO_BOXES, "[[0, 0, 10, 10]]", None, None, {})
    assert [result.score for result in pool.score([item])] == [score]
    pool.close()


def test_a_function_that_hangs_is_ended():
    rows = [("", item_of({"response": text, "truth": ""})) for text in ("regex", "fine")]
    first, second = run_trials(f"{FILE}:misbehave", "strict", rows, timeout_s=0.5)
    assert first.result.failed == "timed out after 0.5 s"
    assert second.result.score == 4.0
