"""Steps with the real transformers engine and the real trainer on a tiny model, all in this process."""

from __future__ import annotations

from functools import partial
from statistics import fmean

import pytest
import torch

from mars.actor.trainer import warn_of_skipped
from mars.algorithms.anchor_use import AnchorUse
from mars.algorithms.scoring import ScoringSpec
from mars.batching.collate import scoring_batch, train_batch
from mars.cluster.local import local_workers
from mars.data.order.stream import PromptStream
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.views import anchor_views, render_view
from mars.hooks.contract import Signal
from mars.hooks.signals import TokenSpans
from mars.hooks.step_hooks import Named
from mars.offload import storages_of
from mars.quarantine import BadSamples, warn_of
from mars.rollout.hf_engine import HfEngine
from mars.rollout.plan import RolloutPlan
from mars.step_parts import StepParts
from mars.turns import turns_of
from mars.types import RewardResult, Sampling
from tests.builders import altered, make_prompt, train_config
from tests.fakes.fit import fit_new_run
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import NO_HOOKS, step_hooks
from tests.tiny_world import ADVANTAGE, GRPO, full


class LetterScorer:
    """The share of the letter "e"."""

    def score(self, items):
        return [self._result(item.response.count("e") / (len(item.response) + 1)) for item in items]

    def _result(self, share):
        return RewardResult(share, share, {"e": share})

    def close(self):
        pass


def run(
    world,
    prompts,
    pictures,
    per_update,
    num_steps=2,
    colocated=False,
    watch=lambda engine, trainer: None,
    objective=GRPO,
    hooks=NO_HOOKS,
):
    def encode(prompt, view):
        messages, images = render_view(prompt, view, "single")
        return world.encoder.encode(messages, len(images)), images

    def length(request):
        return len(world.processor.process(request.prompt_token_ids, request.images).input_ids)

    sampling = Sampling(0.8, 1.0, 0, 5)
    config = train_config(path=str(world.folder), num_steps=num_steps, logprob_diff_alarm=1e-3)
    build_engine = lambda fetch: HfEngine(config, world.rules, process=world.processor.process, fetch=fetch)  # noqa: E731
    build_trainer = lambda transfer: world.trainer(temperature=0.8, objective=objective, learning_rate=3e-3)  # noqa: E731
    tracker = RecordingTracker()
    plan_settings = {
        "prompt_length": length, "num_ranks": 1, "tokens_per_forward": 400, "packing": "shared_prefix",
    }  # fmt: skip
    with local_workers("cpu", 1, build_engine, build_trainer, colocated) as (engine, trainer):
        watch(engine, trainer)
        parts = StepParts(
            engine=engine,
            trainer=trainer,
            scorer=LetterScorer(),
            plan=RolloutPlan(4, 1, sampling, sampling, partial(anchor_views, anchor_kind="mono"), encode, seed=1),
            advantage=ADVANTAGE,
            part_weights={},
            mask_truncated=False,
            overlong=None,
            kl_in_reward=objective.kl_coefficient,
            selection="nonzero_advantage",
            max_rounds=1,
            decode=world.encoder.decode,
            frames=BoxFrames("resized_pixels", world.budget),
            prompt_length=length,
            collate=partial(train_batch, prompts_per_update=per_update, **plan_settings),
            scoring_batch=partial(scoring_batch, **plan_settings),
            bad_samples=BadSamples(0.05, 1000, {}, warn_of),
            by_prompt=False,
            reward_counts=dict,
            hooks=hooks,
            anchor_use=AnchorUse(None, "off"),
            report_skipped=warn_of_skipped,
            turns=turns_of(trainer),
        )
        fit_new_run(parts, PromptStream(prompts, 2, 1, True), tracker, config)
    return tracker


def kept(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith(("timing_s/", "perf/"))}


FAMILIES = ["world", "qwen3_world", "internvl_world", "qwen3_5_world", "qwen2_world"]


@pytest.mark.parametrize(("family", "per_update"), [(family, 2) for family in FAMILIES] + [("world", 1)])
def test_engine_and_trainer_agree_at_every_step_and_the_run_repeats_to_the_bit(request, pictures, family, per_update):
    world = request.getfixturevalue(family)
    prompts = [make_prompt(f"p{i}", pictures[i : i + 2], ["visible", "infrared"]) for i in range(3)]
    prompts.append(make_prompt("text", []))
    one = run(world, prompts, pictures, per_update)
    if per_update == 1:
        two = run(world, prompts, pictures, per_update)
        assert [kept(metrics) for _, metrics in one.metrics] == [kept(metrics) for _, metrics in two.metrics]
    for _, metrics in one.metrics:
        # Stale weights in either would show here: after the first step by far more.
        assert metrics["rollout/logprob_diff_max"] < 1e-4
        assert metrics["actor/grad_norm"] > 0
        assert metrics["fault/skipped_updates"] == 0
        assert metrics["mars/prompts_kept"] > 0
        assert {"mars/anchor/visible/mean", "mars/gain/mean", "actor/entropy", "timing_s/gen"} <= metrics.keys()
    waited = [metrics["timing_s/old_log_prob"] for _, metrics in one.metrics]
    assert (min(waited) > 1e-3) is (per_update == 1)  # one update takes them from its own forward


def test_engine_and_trainer_take_turns_and_the_run_is_the_same(world, pictures):
    """While one computes, no byte of the other's weights, buffers, moments and reference model is there."""
    prompts = [make_prompt(f"p{i}", pictures[i : i + 2], ["visible", "infrared"]) for i in range(3)]
    seen, held = [], {}

    def watch(engine, trainer):
        engine, trainer = engine._engine, trainer._trainer

        def bytes_of(name):
            model = engine._model if name == "engine" else trainer._policy
            tensors = [*model.parameters(), *model.buffers()]
            if name == "trainer":
                tensors += [*trainer._optimizer.moments(), *trainer._reference.parameters()]
            return sum(storage.nbytes() for storage in storages_of(tensors).values())

        def note(turn):
            found = {name: bytes_of(name) for name in ("engine", "trainer")}
            seen.append((turn, found["engine"], found["trainer"]))

        def watched(turn, call):
            def wrapped(*arguments):
                note(turn)
                return call(*arguments)

            return wrapped

        trainer.update, engine.generate = watched("update", trainer.update), watched("generate", engine.generate)
        trainer.score_responses = watched("kl", trainer.score_responses)
        engine.load_weights = watched("load", engine.load_weights)
        held.update(engine=engine, trainer=trainer)

    kl = {"objective": altered(GRPO, kl_coefficient=0.1, kl_placement="reward")}
    together = run(world, prompts, pictures, 1, colocated=True, watch=watch, **kl)
    assert [turn for turn, _, _ in seen] == ["load", *("generate", "kl", "update", "load") * 2]
    weights = 4 * sum(p.numel() for p in held["trainer"]._policy.parameters())
    for turn, engine, trainer in seen:
        if turn == "generate":
            assert engine >= weights
        else:
            assert engine == 0
        assert (trainer == 0) is (turn in ("generate", "load"))
    # AdamW's moments come with the first update and are twice the weights.
    of_update = [trainer for turn, _, trainer in seen if turn == "update"]
    assert of_update[1] - of_update[0] == 2 * weights

    apart = run(world, prompts, pictures, 1, watch=lambda engine, trainer: held.update(apart=trainer), **kl)
    assert [kept(metrics) for _, metrics in together.metrics] == [kept(metrics) for _, metrics in apart.metrics]
    assert all(metrics["timing_s/turns"] > 0 for _, metrics in together.metrics)
    assert not any("timing_s/turns" in metrics for _, metrics in apart.metrics)
    held["trainer"].onload()
    for one, other in zip(held["trainer"]._policy.parameters(), held["apart"]._policy.parameters(), strict=True):
        assert torch.equal(full(one), full(other))


class EngineAgrees:
    """Compares the trainer's mean log-probs of all responses with those of the engine."""

    part, on = "agrees", "all"
    signals = (Signal(ScoringSpec("mean", "mean")),)
    num_seen = 0

    def __call__(self, item, facts):
        responses = [r.completion for group in (item.multi, *item.anchors) for r in group.rollouts]
        self.num_seen += len(responses)
        assert facts.signals["mean"] == pytest.approx([fmean(response.logprobs) for response in responses], abs=1e-4)
        return [0.0] * len(responses)


def test_signals_are_the_log_probs_that_the_engine_sampled_with(world, pictures):
    """On one device that both take in turns, in steps after the first too."""
    prompts = [make_prompt(f"p{i}", pictures[i : i + 2], ["visible", "infrared"]) for i in range(3)]
    agrees = EngineAgrees()
    hooks = step_hooks(shaping=(Named("file:agrees", agrees, None),))
    tracker = run(world, prompts, pictures, 1, colocated=True, hooks=hooks)
    assert agrees.num_seen == 2 * 2 * (4 + 2)
    assert all(metrics["timing_s/signals"] > 0 for _, metrics in tracker.metrics)


@pytest.mark.parametrize(
    "text", ["4", " 4 km ", "\n[1, 2]\n", "é😀", "a <b> c", "<answer>no</answer> so <answer>yes", "x" * 40]
)
def test_the_tokens_of_an_answer_with_a_real_tokenizer(world, text):
    """The tokens have all of the answer, and one less on either side has not."""
    response = f"<think>4 or no?</think> <answer>{text}</answer>"
    ids = world.encoder.encode_response(response)
    start, stop = TokenSpans(world.encoder.decode).of(response, ids, "answer")
    content = text.rpartition("<answer>")[2]
    assert content in world.encoder.decode(ids[start:stop])
    assert content not in world.encoder.decode(ids[start + 1 : stop])
    assert content not in world.encoder.decode(ids[start : stop - 1])
