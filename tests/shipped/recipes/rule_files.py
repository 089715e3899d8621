"""What the tests of recipes with advantage rules share: advantages of given rollouts, and prompts for a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mars.algorithms.advantages import Advantages, AdvantageSettings
from mars.algorithms.pooled_rewards import PooledRewards
from mars.types import Prompt, PromptRollouts
from tests.builders import make_prompt
from tests.fakes.step import GRPO, IMAGE


def advantages_of(kept: Sequence[PromptRollouts], settings: AdvantageSettings = GRPO) -> Advantages:
    """What a rule gets as `base`, if no response is left out."""
    return PooledRewards.of_rollouts(kept).advantages(settings)


def prompts_with(scores: Mapping[str, Sequence[float]]) -> tuple[list[Prompt], dict]:
    """Prompts with one image, and the table of `tests/fakes/step.py` with the scores of their multi responses."""
    prompts = [make_prompt(name, [IMAGE], extra_info={"name": name}) for name in scores]
    return prompts, {(name, None, k): value for name, row in scores.items() for k, value in enumerate(row)}
