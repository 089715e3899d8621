"""Fakes around `train_step`: a script, a table of rewards, a plan without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mars.actor.trainer import warn_of_skipped
from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.anchor_use import AnchorUse
from mars.batching.collate import scoring_batch, train_batch
from mars.data.prompts.views import anchor_views, render_view
from mars.quarantine import BadSamples, warn_of
from mars.rewards.contract import failed_result
from mars.rollout.plan import RolloutPlan
from mars.step import train_step
from mars.step_parts import SamplingState, StepParts
from mars.turns import NoTurns
from mars.types import ImageRef, Prompt, RewardResult, Sampling
from tests.fakes.engine import RecordingEngine
from tests.fakes.trainer import RecordingTrainer
from tests.hook_builders import NO_HOOKS

EOS = 9
GRPO = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
IMAGE = ImageRef("a.png", (28, 28))


class TableScorer:
    """Rewards from a table: (prompt_id, view, sample) -> score; None fails. The response's text names the sample."""

    def __init__(self, table):
        self.table, self.calls = table, 0

    def score(self, items):
        self.calls += 1
        return [self._score(item) for item in items]

    def _score(self, item):
        prompt_id, k = item.extra_info["name"], int(item.response)
        score = self.table[prompt_id, item.view, k]
        return failed_result("raised") if score is None else RewardResult(score, min(max(score, 0), 1), {"part": score})

    def close(self):
        pass


def encode(prompt, view):
    messages, images = render_view(prompt, view, "single")
    return (1, *(len(message.text) for message in messages), *(7,) * len(images)), images


def script(request, k):
    return (*[5] * (k + 1), EOS)  # k fives: the text is the sample's index


def parts(
    table, *, anchor="mono", selection="all", num_ranks=2, per_update=2, samples=4, anchor_samples=2, trainer=None,
    max_rounds=1, overlong=None, kl_in_reward=0.0, scorer=None, mask_truncated=False, part_weights=None,
):  # fmt: skip
    sampling = Sampling(1.0, 0.9, 0, 16)
    plan = RolloutPlan(
        samples, anchor_samples, sampling, sampling, partial(anchor_views, anchor_kind=anchor), encode, seed=3
    )  # fmt: skip
    length = lambda request: len(request.prompt_token_ids)  # noqa: E731
    return StepParts(
        engine=RecordingEngine(script, [EOS]),
        trainer=trainer or RecordingTrainer(),
        scorer=scorer or TableScorer(table),
        plan=plan,
        advantage=GRPO,
        part_weights=part_weights or {},
        mask_truncated=mask_truncated,
        overlong=overlong,
        kl_in_reward=kl_in_reward,
        selection=selection,
        max_rounds=max_rounds,
        decode=lambda ids: str(list(ids).count(5) - 1),
        frames=lambda prompt, view: (None, None),
        prompt_length=length,
        collate=partial(
            train_batch,
            prompt_length=length,
            prompts_per_update=per_update,
            num_ranks=num_ranks,
            tokens_per_forward=30,
            packing="shared_prefix",
        ),
        scoring_batch=partial(
            scoring_batch, prompt_length=length, num_ranks=num_ranks, tokens_per_forward=30, packing="shared_prefix"
        ),
        bad_samples=BadSamples(0.05, 1000, {}, warn_of),
        by_prompt=False,
        reward_counts=dict,
        hooks=NO_HOOKS,
        anchor_use=AnchorUse(None, "off"),
        report_skipped=warn_of_skipped,
        turns=NoTurns(),
    )


@dataclass(frozen=True)
class Rounds:
    """The given prompts, so many a round, again and again."""

    prompts: Sequence[Prompt]
    prompts_per_step: int

    def __len__(self):
        return len(self.prompts)

    @property
    def num_prompts(self):
        return len(self.prompts)

    def batch(self, step):
        first = step * self.prompts_per_step
        return [self.prompts[i % len(self.prompts)] for i in range(first, first + self.prompts_per_step)]

    def probes(self, step, round):
        return ()

    def observe(self, rollouts, step, left_out=()):
        return {}

    def state(self, round):
        return {}

    def read_added(self, snapshots):
        pass

    def restore(self, state):
        pass


def one_step(made, prompts, step=1):
    """A step without rounds over just these prompts."""
    return train_step(made, Rounds(prompts, len(prompts)), SamplingState(0, ()), step)
