"""What the tests of recipes with a sampler share: prompts, rollouts to observe, and runs with fakes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

from mars.checkpoint.state import START
from mars.config.recipe_section import RecipeConfig
from mars.fit import fit
from mars.hooks.contract import SamplerSetup
from mars.hooks.load import load_sampler, resolved
from mars.step import train_step
from mars.types import Completion, Prompt, PromptRollouts, RewardResult
from tests.builders import make_prompt, make_rollouts
from tests.fakes.step import IMAGE, parts
from tests.fakes.tracker import RecordingTracker
from tests.shipped.recipes.recipe_files import FOLDERS, compose, experiments
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, settings

PROMPTS = [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(10)]
SETUP = SamplerSetup((tuple(PROMPTS[:6]), tuple(PROMPTS[6:])), None, True, 3, 4, 5)
GROWING = "syn_grpo"  # its rows are not the training files alone; it has tests of its own
SAMPLERS = [
    (folder, name)
    for folder in FOLDERS
    for name in experiments(folder, tiny=True)
    if folder.name != GROWING and "sampler:" in (folder / "experiment" / f"{name}.yaml").read_text()
]
"""Every tiny experiment whose sampler chooses among the training files: its folder and name."""


@cache
def recipe_of(folder: Path, experiment: str) -> RecipeConfig:
    return resolved(compose(folder, experiment).recipe)


def rounds_of(folder: Path, experiment: str, setup: SamplerSetup = SETUP):
    """The rounds of a recipe's sampler with the settings of an experiment."""
    rounds = load_sampler(recipe_of(folder, experiment), setup, known=None, ramps=[])
    assert rounds is not None
    return rounds


def sampler_of(folder: Path, experiment: str, setup: SamplerSetup = SETUP):
    """The sampler itself."""
    return rounds_of(folder, experiment, setup)._sampler


def observed(prompt: Prompt, accuracies, seed: int = 0, **anchors) -> PromptRollouts:
    """The rollouts of a prompt with these accuracies as scores, None for a failed one; token ids depend on the seed."""
    given = [None if a is None else RewardResult(a, a, {}) for a in accuracies]
    item = make_rollouts(prompt, given, **anchors)
    rng = random.Random(f"{prompt.prompt_id}:{seed}")
    texts = [tuple(rng.choices(range(4), k=rng.randrange(1, 9))) for _ in given]
    rollouts = tuple(
        replace(rollout, completion=Completion(ids, (-0.5,) * len(ids), "stop"))
        for rollout, ids in zip(item.multi.rollouts, texts, strict=True)
    )
    return replace(item, multi=replace(item.multi, rollouts=rollouts))


def run(folder: Path, experiment: str, schedule: str, selection: str, start=START, last=6):
    """A run with fakes: the prompts of each step, the states after them, the metrics."""
    rounds, checkpoints, tracker = rounds_of(folder, experiment), CheckpointsInMemory(), RecordingTracker()
    # Scores that are often equal, so that prompts without an advantage are dropped.
    table = {key: round(value) for key, value in make_table(PROMPTS, random.Random(2)).items()}
    made = parts(table, selection=selection, max_rounds=1 if selection == "all" else 3)
    config = settings(last)
    step = train_step if schedule == "synchronous" else ahead_of(config, rounds, max_staleness=2)
    fit(made, rounds, tracker, config, None, checkpoints, start, 0, step)
    return [batch.prompts for batch in made.trainer.batches], checkpoints.states, tracker
