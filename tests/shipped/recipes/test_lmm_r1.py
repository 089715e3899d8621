"""recipe/lmm_r1: two chained runs, and the advantage that they use."""

from __future__ import annotations

import pytest
import torch

from mars.algorithms.advantages import AdvantageSettings, group_advantages
from tests.shipped.recipes.recipe_files import ROOT, compose

FOLDER = ROOT / "recipe" / "lmm_r1"


def test_the_second_stage_starts_from_the_firsts_policy_and_differs_in_the_length_alone():
    first, second = (compose(FOLDER, f"lmm_r1_{stage}_qwen2_5_vl_3b").dotted() for stage in ("text", "perception"))
    assert second["model.path"] == f"{first['run.dir']}/policy"
    differing = {key for key in first if first[key] != second[key]}
    assert differing - {"run.name", "run.dir"} == {
        "model.path", "algorithm.kl_reference", "rollout.max_response_tokens",
    }  # fmt: skip
    assert second["algorithm.kl_reference"] == second["model.path"]


def test_the_advantage_is_the_score_minus_the_mean_of_the_others():
    algorithm = compose(FOLDER, "lmm_r1_tiny").algorithm
    settings = AdvantageSettings(algorithm.estimator, algorithm.normalize_std, "mean_and_std", True, 0.0, 1e-6)
    scores = torch.tensor([1.5, 0.5, 0.5, 0.0], dtype=torch.float64)
    nothing = torch.tensor([], dtype=torch.float64)
    found = group_advantages(scores, torch.zeros(4, dtype=torch.int64), nothing, nothing.long(), 1, settings)
    assert found.values.tolist() == pytest.approx([1.5 - 1 / 3, 0.5 - 2 / 3, 0.5 - 2 / 3, -2.5 / 3])
    assert algorithm.kl_placement == "reward"
