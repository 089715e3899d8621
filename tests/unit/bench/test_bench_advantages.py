"""scripts/bench_advantages.py compares the same thing with itself, by two ways. Nothing is timed here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

from bench_advantages import MARS, flat_tensors, plain_advantages, random_prompts

from mars.algorithms.advantages import group_advantages


@pytest.mark.parametrize("seed", range(3))
def test_the_loop_and_the_tensors_give_the_same_advantages(seed):
    prompts = random_prompts(200, 8, 2, seed)
    assert len({len(multi) for multi, _ in prompts}) > 3  # ragged
    values = group_advantages(*flat_tensors(prompts), len(prompts), MARS).values
    assert values.tolist() == pytest.approx(plain_advantages(prompts), abs=1e-12)
    assert float(values.abs().max()) > 1
