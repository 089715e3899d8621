"""What a training step is made of: its parts, its stream of prompts, and the state that it hands on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mars.actor.trainer import PolicyTrainer, SkippedReport
from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.anchor_use import AnchorUse
from mars.algorithms.penalties import OverlongPenalty
from mars.answers.record import BoxFrames, PromptLength
from mars.hooks.step_hooks import StepHooks
from mars.quarantine import BadSamples, Quarantine
from mars.rewards.contract import RewardScorer
from mars.rollout.engine import RolloutEngine
from mars.rollout.plan import RolloutPlan
from mars.signals import ScoringBatch
from mars.train_types import TrainBatch
from mars.turns import Turns
from mars.types import Prompt, PromptRollouts, SampledPrompt


@dataclass(frozen=True)
class StepParts:
    """Everything a step uses, made once by mars/build.py.

    part_weights: part of the reward -> its weight in the advantage; empty: advantages are computed from the score.
    mask_truncated: whether responses cut at the token limit get weight 0. Their rewards count in the statistics.
    overlong: penalty of long responses, None for none.
    kl_in_reward: units of reward subtracted per nat of KL to the reference model; 0: none.
    max_rounds: rounds of prompts that a step may sample. anchor_use: uses of anchors besides the pool.
    decode: response ids to text. collate: prompts to train on -> the trainer's batch.
    scoring_batch: rollouts -> a batch for `score_responses`.
    by_prompt: whether all responses to a prompt are scored together (`reward.by_prompt`).
    reward_counts: what reward functions have counted so far, by name of the metric.
    hooks: those of the section `recipe` that a step calls.
    """

    engine: RolloutEngine
    trainer: PolicyTrainer
    scorer: RewardScorer
    plan: RolloutPlan
    advantage: AdvantageSettings
    part_weights: Mapping[str, float]
    mask_truncated: bool
    overlong: OverlongPenalty | None
    kl_in_reward: float
    selection: Literal["all", "nonzero_advantage"]
    max_rounds: int
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: PromptLength
    collate: Callable[[Sequence[SampledPrompt]], TrainBatch]
    scoring_batch: ScoringBatch
    bad_samples: BadSamples
    by_prompt: bool
    reward_counts: Callable[[], Mapping[str, float]]
    hooks: StepHooks
    anchor_use: AnchorUse
    report_skipped: SkippedReport
    turns: Turns

    def plan_at(self, step: int) -> RolloutPlan:
        """The plan with the values that `ramps` give the step."""
        return self.plan.at(self.hooks.scheduled(step)) if self.hooks.ramps else self.plan

    def kl_in_reward_at(self, step: int) -> float:
        key = "algorithm.kl_coefficient"
        return self.hooks.scheduled(step).get(key, self.kl_in_reward) if self.kl_in_reward > 0 else 0.0


class PromptRounds(Protocol):
    """An endless stream of prompts. Round i has `prompts_per_step` different prompts (mars/data/order/stream.py), or
    the prompts that a sampler chooses (mars/hooks/prompt_sampler.py). `observe` shows the sampler the rollouts of a
    step, and `left_out`, the ids of prompts that cannot be read.

    `len()`: the number of different prompts in an epoch. num_prompts: also counts prompts that a sampler has added
    during the run. read_added: when a run is resumed, reads the rows that its sampler had added; `snapshots`, the
    states of the hooks, name these rows.
    """

    prompts_per_step: int

    @property
    def num_prompts(self) -> int: ...

    def batch(self, step: int) -> Sequence[Prompt]: ...

    def __len__(self) -> int: ...

    def probes(self, step: int, round: int) -> Sequence[Prompt]: ...

    def observe(
        self, rollouts: Sequence[PromptRollouts], step: int, left_out: Collection[str] = ()
    ) -> Mapping[str, float]: ...

    def state(self, round: int) -> Mapping[str, Any]: ...

    def read_added(self, snapshots: Iterable[str]) -> None: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class SamplingState:
    """What a step hands to the next.

    round: rounds drawn from the stream so far.
    surplus: number of prompts in these rounds minus `prompts_per_step` per round; below 0: they had fewer. A round
        without prompts adds 0.
    carried: kept prompts beyond this step's quota; the next step trains on them first.
    quarantine: prompts that could not be read, which are not sampled again.
    version: of the engine's weights. `==` of two states ignores it, because another process may count from another
        number.
    ahead: what the next step trains on, if it is sampled already (mars/step_async.py).
    hooks: what the hooks keep between steps (`StepHooks.snapshot`), at the end of the sampling.
    """

    round: int
    carried: tuple[SampledPrompt, ...]
    quarantine: Quarantine = field(default_factory=Quarantine)
    version: int = field(default=0, compare=False)
    ahead: Sampled | None = None
    hooks: str | None = None
    surplus: int = 0


@dataclass(frozen=True)
class Sampled:
    """rollouts: everything sampled for this step, kept or not. kept: the prompts to train on, carried ones first.

    metrics: of the rollouts, by their documented names (docs/metrics.md).
    """

    rollouts: Sequence[PromptRollouts]
    kept: Sequence[SampledPrompt]
    state: SamplingState
    metrics: Mapping[str, float]
