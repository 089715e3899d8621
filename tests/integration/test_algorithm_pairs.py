"""Every algorithm with every kind of anchors: one whole step from its configuration, with fakes for engine and trainer.

The expected advantages are written out here by the name of the algorithm, from the papers' formulas.
"""

from __future__ import annotations

import numpy as np
import pytest

from mars.actor.trainer import ResponseScores
from mars.config.load import load_config
from mars.data.prompts.boxes import BoxFrames
from mars.inputs import Inputs
from mars.rollout.scripted import ScriptedEngine
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import RewardResult
from tests.builders import altered, make_prompt
from tests.fakes.engine import RecordingEngine
from tests.fakes.run import parts_of_run
from tests.fakes.step import Rounds
from tests.fakes.trainer import RecordingTrainer
from tests.tiny_world import TinyWorld

ALGORITHMS = ("grpo", "dapo", "dr_grpo", "rloo", "gspo", "cispo")
ANCHORS = ("none", "mono", "all_but_one")
LONGEST, BUFFER = 24, 16


class LengthScorer:
    """The score of a response is its number of characters modulo 5."""

    def score(self, items):
        scores = [len(item.response) % 5 for item in items]
        return [RewardResult(float(score), 0.0, {}) for score in scores]

    def close(self):
        pass


class PartScorer:
    """The score of n letters is n, or 10 for five; the part `length` is n."""

    def score(self, items):
        lengths = [float(len(item.response)) for item in items]
        return [RewardResult(10.0 if n == 5 else n, 0.0, {"length": n}) for n in lengths]

    def close(self):
        pass


class KlTrainer(RecordingTrainer):
    """A KL of 0.5 nats for every token of a response."""

    def score_responses(self, batch, spec, spans=None):
        return ResponseScores([tuple(0.5 * len(r.token_ids) for r in prompt.responses) for prompt in batch.prompts])


@pytest.fixture(scope="module")
def world(tiny):
    return TinyWorld(tiny)


def configure(folder, algorithm, anchor):
    overrides = [
        f"algorithm={algorithm}", f"anchor={anchor}", f"model.path='{folder}'", "data.train_files=[none]",
        "data.prompts_per_step=6", "actor.prompts_per_update=3", "actor.num_workers=2", "cluster.device=cpu",
        "rollout.samples_per_prompt=5", "rollout.top_p=1.0", f"rollout.max_response_tokens={LONGEST}",
        "actor.tokens_per_forward=300",
    ]  # fmt: skip
    overrides += [f"algorithm.overlong_buffer_tokens={BUFFER}"] if algorithm == "dapo" else []
    return load_config("train", overrides, [])


def a_letter(world):
    """An id whose text is one character, so that a response's length shows in its text."""
    return next(i for i in world.words if len(world.encoder.decode([i, i])) == 2)


def expected(algorithm, multi, anchors):
    """The advantages of the multi rewards, each formula on its own."""
    pool = [*multi, *anchors]
    if algorithm == "rloo":
        return [r - (sum(pool) - r) / (len(pool) - 1) for r in multi]
    if algorithm == "dr_grpo":
        return [r - sum(pool) / len(pool) for r in multi]
    return [(r - np.mean(pool)) / (np.std(pool, ddof=1) + 1e-6) for r in multi]


def reward(algorithm, rollout, text):
    """What a response must have earned, from its length."""
    tokens = len(rollout.completion.token_ids)
    score = float(len(text) % 5)
    if algorithm == "dapo":
        score += min(-(tokens - (LONGEST - BUFFER)) / BUFFER, 0.0)
    if algorithm == "rloo":
        score -= 0.001 * 0.5 * tokens
    return score


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_step_of_every_pair(world, pictures, algorithm, anchor):
    config = configure(world.folder, algorithm, anchor)
    inputs = Inputs(world.encoder, world.budget, None, None, BoxFrames("resized_pixels", world.budget), config)
    prompts = [make_prompt(f"p{i}", pictures[:number]) for i, number in enumerate([2, 3, 1, 2, 3, 2])]
    eos, word = world.rules.eos_ids[0], a_letter(world)

    def script(request, k):
        return (*[word] * ((request.seed + 7 * k) % 23), eos)

    engine = RecordingEngine(script, [eos])
    parts = parts_of_run(config, inputs, engine, None, LengthScorer())
    trainer = KlTrainer()
    parts = type(parts)(**{**vars(parts), "trainer": trainer})
    result = train_step(parts, Rounds(prompts, 6), SamplingState(0, ()), 1)

    views = {"none": 0, "mono": 1, "all_but_one": 1}[anchor]
    anchors_of = {p.prompt_id: views * (len(p.sources) if len(p.sources) > 1 else 0) for p in prompts}
    assert sorted(request.prompt_id for request in engine.requests if request.view is not None) == sorted(
        prompt_id for prompt_id, count in anchors_of.items() for _ in range(count)
    )
    shown = {"mono": lambda sources: 1, "all_but_one": lambda sources: sources - 1, "none": None}[anchor]
    sources = {p.prompt_id: len(p.sources) for p in prompts}
    for request in engine.requests:
        assert len(request.images) == (sources[request.prompt_id] if request.view is None else shown(
            sources[request.prompt_id]))  # fmt: skip

    trained = {item.prompt_id for batch in trainer.batches for item in batch.prompts}
    for item in result.rollouts:
        multi = [reward(algorithm, r, r.text) for r in item.multi.rollouts]
        anchored = [reward(algorithm, r, r.text) for group in item.anchors for r in group.rollouts]
        advantages = expected(algorithm, multi, anchored)
        assert [r.reward.score for r in item.multi.rollouts] == pytest.approx(multi)
        assert [r.reward.score for g in item.anchors for r in g.rollouts] == pytest.approx(anchored)
        if item.prompt.prompt_id not in trained:
            assert algorithm == "dapo"
            assert np.ptp([*multi, *anchored]) == 0
            continue
        by_reward = sorted(
            target.response.advantage for name, target in trainer.targets[0] if name == item.prompt.prompt_id
        )
        assert by_reward == pytest.approx(sorted(advantages), abs=1e-6)
    assert result.metrics["mars/prompts_kept"] == len(trained) > 0
    assert (result.metrics["anchor/tokens"] == 0) is (anchor == "none")
    assert ("mars/gain/mean" in result.metrics) is (anchor != "none")


@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "gspo", "cispo"])
def test_the_mean_advantage_of_a_prompt_is_the_gain_over_the_spread(world, pictures, algorithm):
    """critic/advantages/mean = (1 - lambda) gain / sigma, for prompts of equal sizes with one spread each."""
    config = configure(world.folder, algorithm, "mono")
    inputs = Inputs(world.encoder, world.budget, None, None, BoxFrames("resized_pixels", world.budget), config)
    prompt = make_prompt("p", pictures[:3])
    eos, word = world.rules.eos_ids[0], a_letter(world)
    lengths = {None: [0, 3, 1, 4, 7]}

    def script(request, k):
        return (*[word] * lengths.get(request.view, [1, 1])[k], eos)

    parts = parts_of_run(config, inputs, ScriptedEngine(script, [eos]), None, LengthScorer())
    parts = type(parts)(**{**vars(parts), "trainer": KlTrainer()})
    result = train_step(parts, Rounds([prompt], 1), SamplingState(0, ()), 1)
    item = result.rollouts[0]
    multi = [r.reward.score for r in item.multi.rollouts]
    pool = [*multi, *(r.reward.score for g in item.anchors for r in g.rollouts)]
    metrics = result.metrics
    assert metrics["mars/lambda"] == pytest.approx(5 / 8)
    expected_mean = (1 - metrics["mars/lambda"]) * metrics["mars/gain/mean"] / (np.std(pool, ddof=1) + 1e-6)
    assert metrics["mars/gain/mean"] != 0
    assert metrics["critic/advantages/mean"] == pytest.approx(expected_mean, rel=1e-6)


def test_masks_and_part_weights_reach_the_step(world):
    """From the configuration, through mars/build.py: one response is cut, and parts are normalised one by one."""
    config = configure(world.folder, "grpo", "none")
    assert config.algorithm.part_weights == {}
    inputs = Inputs(world.encoder, world.budget, None, None, BoxFrames("resized_pixels", world.budget), config)
    eos, word = world.rules.eos_ids[0], a_letter(world)

    def trained(algorithm):
        def script(request, k):
            return (*[word] * (k + 1), *([] if k == 4 else [eos]))

        set_up = config.model_copy(update={"algorithm": altered(config.algorithm, **algorithm)})
        parts = parts_of_run(set_up, inputs, RecordingEngine(script, [eos]), KlTrainer(), PartScorer())
        train_step(parts, Rounds([make_prompt("p")], 1), SamplingState(0, ()), 1)
        (prompt,) = parts.trainer.batches[0].prompts
        return [response.advantage for response in prompt.responses]

    scores = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    plain = (scores - 4) / np.std(scores, ddof=1)
    assert trained({}) == pytest.approx(plain, rel=1e-5)
    assert trained({"truncated_responses": "mask"}) == pytest.approx(plain[:4], rel=1e-5)
    lengths = (np.arange(5.0) - 2) / np.std(np.arange(5.0), ddof=1)  # their batch has std 1
    assert trained({"part_weights": {"length": 3.0}}) == pytest.approx(lengths, rel=1e-5)
