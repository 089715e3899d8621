"""Two steps of every recipe on fakes, plain and with mono anchors: its rewards, hooks, estimator and selection."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import pytest

from mars.build import _advantage_settings
from mars.hooks.contract import SamplerSetup
from mars.hooks.load import load_sampler, with_resolved_recipe
from mars.hooks.step_hooks import as_json
from mars.rewards.local import LocalScorer
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import RewardResult
from tests.builders import make_prompt
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, Rounds, parts
from tests.hook_builders import hooks_of_config
from tests.shipped.recipes.recipe_files import FOLDERS, compose, experiments
from tests.shipped.recipes.test_all_recipes import rows_of, services  # noqa: F401  a fixture

EXPERIMENTS = [(folder, name) for folder in FOLDERS for name in experiments(folder, tiny=True)]
SIZE = (28, 28)
# No text here answers a checklist, and a gate above 0 would leave out all responses.
OVERRIDES = {"pearl": ("recipe.settings.pearl.threshold=0.0",)}


class Varied:
    """A scorer for recipes without a reward of their own: right is what ends with an answer that is the truth."""

    def score(self, items):
        right = [float(item.response.endswith(f"<answer>{item.truth}</answer>")) for item in items]
        return [RewardResult(value, value, {"right": value}) for value in right]

    def close(self):
        pass


def texts(truth: str, asked: int) -> list[str]:
    """What samples 0, 1, 2 ... of a view answer."""
    return [
        f"<think>it is seen in both images</think><answer>{truth}</answer>",
        "nothing",
        f"<description>a</description><think>so</think><answer>{truth}</answer>\\boxed{{{truth}}}",
        "<think>no</think><answer>[[1, 2, 3, 4]]</answer>",
    ][:asked]


def step_of(folder, name, *overrides):
    """A step's parts, rounds of two prompts, and the hooks, as a configuration says. Two images a prompt."""
    config = with_resolved_recipe(compose(folder, name, *overrides))
    given = next(iter(rows_of(folder)), (None, "[[0, 0, 9, 9]]", {}))
    reward, truth, extra_info = given
    prompts = [
        make_prompt(f"p{i}", [IMAGE] * 2, truth=truth, extra_info={**extra_info, "name": f"p{i}"}) for i in range(4)
    ]
    answers = texts(truth, 4)
    made = parts(
        {}, anchor=config.anchor.kind, selection=config.algorithm.selection,
        max_rounds=config.algorithm.max_rounds or 10, part_weights=config.algorithm.part_weights,
        mask_truncated=config.algorithm.truncated_responses == "mask",
        scorer=Varied() if reward is None else LocalScorer(reward, "strict"),
    )  # fmt: skip
    made = replace(
        made,
        advantage=_advantage_settings(config),
        decode=lambda ids: answers[(list(ids).count(5) - 1) % len(answers)],
        frames=lambda prompt, view: (SIZE, SIZE),
        by_prompt=config.reward.by_prompt,
    )
    made = with_requests(made, hooks_of_config(config, 2))
    extras = replace(made.plan.extras, encode_response=lambda text: (5, EOS))
    made = replace(made, plan=replace(made.plan, extras=extras))
    setup = SamplerSetup((tuple(prompts),), None, True, 2, 4, 0, read_rows=lambda _: ())
    sampler = load_sampler(config.recipe, setup, known=None, ramps=[])
    return config, made, sampler or Rounds(prompts, 2)


@pytest.mark.parametrize("anchor", [None, "mono"])
@pytest.mark.parametrize(("folder", "name"), EXPERIMENTS, ids=[name for _, name in EXPERIMENTS])
def test_two_steps_of_a_recipe(folder, name, anchor, services, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    changes = OVERRIDES.get(folder.name, ())
    config, made, rounds = step_of(folder, name, *changes, *([f"anchor={anchor}"] if anchor else []))
    state = SamplingState(0, ())
    for step in (1, 2):
        result = train_step(made, rounds, state, step)
        state = result.state
        views = Counter(group.request.view is None for item in result.rollouts for group in (item.multi, *item.anchors))
        assert views[True] == len(result.rollouts) > 0
        assert views[False] == (2 * views[True] if config.anchor.kind == "mono" else 0)
        assert all(math.isfinite(value) for metric, value in result.metrics.items() if metric.startswith("critic/"))
    rows = [row for batch in made.trainer.batches for prompt in batch.prompts for row in prompt.responses]
    assert any(row.weight * row.advantage for row in rows)
    if state.hooks is not None:
        assert json.loads(as_json("", json.loads(state.hooks))) == json.loads(state.hooks)
