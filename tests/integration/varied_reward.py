"""Rewards for text of an untrained model: they vary, and one kind of answer fails."""

import os
import time
from pathlib import Path


def score(data_source, solution_str, ground_truth, extra_info=None):
    return (sum(map(ord, solution_str)) % 7) / 6


def sometimes_raises(data_source, solution_str, ground_truth, extra_info=None):
    if sum(map(ord, solution_str)) % 4 == 0:
        raise RuntimeError("this answer cannot be scored")
    return (sum(map(ord, solution_str)) % 7) / 6


def rare(data_source, solution_str, ground_truth, extra_info=None):
    """Mostly 0, so that many prompts have no advantage and dynamic sampling carries others to the next step."""
    return float(sum(map(ord, solution_str)) % 5 == 0)


def hangs(data_source, solution_str, ground_truth, extra_info=None):
    """Answers take for ever, but for those that are tried before a run: one with JSON is right, an empty one is not.

    The file $HANGING, if it is set, says that one has begun.
    """
    while "{" not in solution_str and "<answer></answer>" not in solution_str:
        if "HANGING" in os.environ:
            Path(os.environ["HANGING"]).touch()
        time.sleep(1)
    return float("{" in solution_str)
