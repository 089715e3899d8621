"""Build the parts of a job from its configuration: choose the classes behind the interfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from mars.actor.trainer import PolicyTrainer, RankTrainer, Rendezvous, SkippedReport
from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.anchor_use import AnchorUse
from mars.algorithms.penalties import OverlongPenalty
from mars.batching.collate import scoring_batch, train_batch
from mars.cluster.node_facts import SharedFiles
from mars.cluster.restarts import WorkerReport, no_report
from mars.config.run_sections import is_colocated
from mars.config.schema import SftConfig, TrainConfig
from mars.data.pixels.images import DecodeImage, decode_image
from mars.data.pixels.transforming import TransformingDecoder
from mars.evaluation.ask import EvaluationParts
from mars.hooks.guest_filter import GuestCheck
from mars.hooks.of_workers import image_transforms, token_rule
from mars.hooks.step_hooks import StepHooks
from mars.inputs import Inputs, evaluation_plan, image_budget, prompt_processor, rewards_of, training_plan
from mars.output.secrets import redact, redacted
from mars.quarantine import BadPromptReport, BadSamples
from mars.rewards.contract import PartsScorer, RewardScorer
from mars.rewards.pool import RewardPool
from mars.rollout.engine import RolloutEngine
from mars.rollout.forced_starts import ForcedStarts
from mars.step_parts import StepParts
from mars.tracking.jsonl import METRICS_FILE, JsonlTracker
from mars.tracking.multi import MultiTracker
from mars.tracking.named import factories
from mars.tracking.pictures import RolloutPictures
from mars.tracking.rollouts import ROLLOUTS_FOLDER, RolloutFiles
from mars.tracking.tracker import TrackedRun, Tracker
from mars.turns import turns_of
from mars.types import Prompt, TokenRules
from mars.weights.transfer import WeightTransfer

# Number of processed images that a worker caches: enough for one prompt, whose next views use the same images. In a
# larger cache, most images would never be used again, and they would fragment the heap.
CACHED_IMAGES = 8


@dataclass(frozen=True)
class EngineSpec:
    """Builds the rollout engine in the process that calls it. For a Ray worker it is pickled and called in the worker.

    decode: reads images for the engine; None: `decode_image`.
    """

    config: TrainConfig
    rules: TokenRules
    max_images: int

    def __call__(
        self, fetch: Callable[[Any], Iterable[tuple[str, Any]]], decode: DecodeImage | None = None
    ) -> RolloutEngine:
        decode = _with_transforms(self.config, decode or decode_image)
        match self.config.rollout.engine:
            case "vllm":
                from mars.rollout.vllm_engine import VllmEngine

                budget = image_budget(self.config)
                return VllmEngine(
                    self.config,
                    self.rules,
                    self.max_images,
                    processor_settings=budget.processor_settings(),
                    image_bytes=budget.max_bytes,
                    decode=decode,
                    fetch=fetch,
                )
            case "hf":
                from mars.rollout.hf_engine import HfEngine

                return HfEngine(
                    self.config, self.rules, process=_processor(self.config, self.rules, decode), fetch=fetch
                )
            case "scripted" | "scripted_full_length":
                from mars.rollout.scripted import ScriptedEngine, full_length_script, random_script

                words = range(min(self.rules.blocked_ids, default=self.rules.image_id))
                if self.config.rollout.engine == "scripted_full_length":
                    script = full_length_script([word for word in words if word not in self.rules.eos_ids])
                else:
                    script = random_script(words, self.rules.eos_ids[0])
                return ScriptedEngine(script, self.rules.eos_ids)


@dataclass(frozen=True)
class TrainerSpec:
    """Builds one rank of the trainer in the process that calls it."""

    config: TrainConfig
    rules: TokenRules

    def __call__(
        self, rendezvous: Rendezvous, transfer: WeightTransfer, decode: DecodeImage | None = None
    ) -> RankTrainer:
        from mars.actor.fsdp_trainer import FsdpTrainer

        process = _processor(self.config, self.rules, _with_transforms(self.config, decode or decode_image))
        loads = self.config.algorithm.loads_reference
        rule = token_rule(self.config.recipe, with_reference=loads, ramps=self.config.ramps)
        return FsdpTrainer(self.config, self.rules, rendezvous, process, transfer, rule)


def _with_transforms(config: TrainConfig, decode: DecodeImage) -> DecodeImage:
    return TransformingDecoder(decode, partial(image_transforms, config.recipe, config.ramps))


def _advantage_settings(config: TrainConfig) -> AdvantageSettings:
    algorithm = config.algorithm
    return AdvantageSettings(
        estimator=algorithm.estimator,
        normalize_std=algorithm.normalize_std,
        pooled_statistics=config.anchor.pooled_statistics,
        unbiased_std=algorithm.unbiased_std,
        std_floor=algorithm.std_floor,
        epsilon=algorithm.epsilon,
    )


def _overlong_penalty(config: TrainConfig) -> OverlongPenalty | None:
    buffer, longest = config.algorithm.overlong_buffer_tokens, config.rollout.max_response_tokens
    return None if buffer is None else OverlongPenalty(longest, buffer, config.algorithm.overlong_factor)


def _anchor_use(config: TrainConfig, inputs: Inputs, hooks: StepHooks) -> AnchorUse:
    anchor = config.anchor
    guide = None if anchor.guide == "off" else GuestCheck(inputs.frames, hooks.guest_filter)
    return AnchorUse(guide, anchor.shuffle)


def _processor(config: TrainConfig, rules: TokenRules, decode: DecodeImage):
    return prompt_processor(config, rules, CACHED_IMAGES, decode).process


def workers(
    config: TrainConfig, inputs: Inputs, with_trainer: bool, log_dir: Path, report: WorkerReport = no_report
) -> AbstractContextManager[tuple[RolloutEngine, PolicyTrainer | None]]:
    """Engine and trainer, in this process or on Ray workers (`cluster.kind`). Without `with_trainer` the trainer is
    None.

    log_dir: folder for the logs of Ray workers. report: called when a worker is lost or replaced.
    """
    rules, cluster = inputs.encoder.token_rules(), config.cluster
    build_engine = EngineSpec(config, rules, inputs.max_images)
    build_trainer = TrainerSpec(config, rules) if with_trainer else None
    if cluster.kind == "local":
        from mars.cluster.local import local_workers

        colocated = is_colocated(cluster.placement, cluster.kind, cluster.device)
        alone = Rendezvous(rank=0, world_size=1, init_method=None, timeout_s=cluster.call_timeout_s)
        build_alone = None if build_trainer is None else partial(build_trainer, alone)
        return local_workers(cluster.device, cluster.threads_per_worker, build_engine, build_alone, colocated)
    from mars.cluster.ray_launch import ray_workers

    sets = [some.prompts for some in (inputs.train, inputs.evaluation) if some is not None]
    files = shared_files(config, chain.from_iterable(sets))
    return ray_workers(config, build_engine, build_trainer, inputs.prompt_length, files, log_dir, report)


def shared_files(config: TrainConfig | SftConfig, prompts: Iterable[Prompt]) -> SharedFiles:
    """The files that every node with a worker must have: models, and images unless `data.transport=object_store`."""
    models = [config.model.path]
    if isinstance(config, TrainConfig) and config.algorithm.loads_reference and config.algorithm.kl_reference:
        models.append(config.algorithm.kl_reference)
    if config.data.transport == "object_store":  # the images are read on the driver's node alone
        return SharedFiles.of(models, ())
    images = (source.image.path for prompt in prompts for source in prompt.sources)
    return SharedFiles.of(models, images, config.data.image_root)


def build_scorer(config: TrainConfig, on_start: Callable[[], object] = lambda: None) -> RewardPool:
    """The pool of reward processes. on_start: called each time processes were started."""
    reward = config.reward
    options = {"concurrency": reward.concurrency, "by_prompt": reward.by_prompt}
    return RewardPool(rewards_of(config), reward.scorer, reward.num_workers, reward.timeout_s, on_start, **options)


def step_parts(
    config: TrainConfig,
    inputs: Inputs,
    engine: RolloutEngine,
    trainer: PolicyTrainer,
    scorer: RewardScorer,
    report_bad: BadPromptReport,
    report_skipped: SkippedReport,
    hooks: StepHooks,
    reward_counts: Callable[[], Mapping[str, float]],
    prompts: Mapping[str, Prompt],
) -> StepParts:
    """report_bad: called for each prompt that cannot be read. report_skipped: called for updates that were not finite.

    hooks: of the section `recipe`, loaded before any worker starts. reward_counts: `RewardPool.counts`.
    prompts: the prompts that a step may sample, by id.
    """
    algorithm = config.algorithm
    plan_settings: dict[str, Any] = {
        "prompt_length": inputs.prompt_length,
        "num_ranks": config.actor.num_workers,
        "tokens_per_forward": config.actor.tokens_per_forward,
        "packing": config.actor.packing,
    }
    return StepParts(
        engine=cast(RolloutEngine, ForcedStarts(engine)) if config.anchor.kind == "forced_source" else engine,
        trainer=trainer,
        scorer=PartsScorer(scorer, algorithm.part_weights) if algorithm.part_weights else scorer,
        plan=training_plan(inputs, hooks),
        advantage=_advantage_settings(config),
        part_weights=algorithm.part_weights,
        mask_truncated=algorithm.truncated_responses == "mask",
        overlong=_overlong_penalty(config),
        kl_in_reward=algorithm.kl_coefficient if algorithm.kl_placement == "reward" else 0.0,
        selection=algorithm.selection,
        max_rounds=algorithm.max_rounds,
        decode=inputs.encoder.decode,
        frames=inputs.frames,
        prompt_length=inputs.prompt_length,
        collate=partial(train_batch, prompts_per_update=config.actor.prompts_per_update, **plan_settings),
        scoring_batch=partial(scoring_batch, **plan_settings),
        bad_samples=BadSamples(config.data.max_bad_fraction, config.data.bad_window, prompts, report_bad),
        hooks=hooks,
        anchor_use=_anchor_use(config, inputs, hooks),
        by_prompt=config.reward.by_prompt,
        reward_counts=reward_counts,
        report_skipped=report_skipped,
        turns=turns_of(trainer),
    )


def evaluation_parts(
    config: TrainConfig, inputs: Inputs, engine: RolloutEngine, scorer: RewardScorer
) -> EvaluationParts:
    return EvaluationParts(
        engine=engine,
        scorer=scorer,
        plan=evaluation_plan(inputs),
        decode=inputs.encoder.decode,
        frames=inputs.frames,
        prompt_length=inputs.prompt_length,
        threshold=config.evaluation.iou_threshold,
        rewards=rewards_of(config),
        max_bad_fraction=config.data.max_bad_fraction,
        by_prompt=config.reward.by_prompt,
    )


def build_tracker(
    config: TrainConfig,
    inputs: Inputs,
    last_step: int,
    resumed_step: int | None,
    switched_off: int,
    on_start: Callable[[], object],
) -> MultiTracker:
    """resumed_step: as for JsonlTracker. switched_off: as for MultiTracker. on_start: as for WandbFactory."""
    run_dir, tracking = Path(config.run.dir), config.tracking
    rollouts = partial(RolloutFiles, run_dir / ROLLOUTS_FOLDER, inputs.frames, inputs.prompt_length)
    pictures = RolloutPictures(inputs.frames, inputs.prompt_length, _with_transforms(config, decode_image))
    return MultiTracker(
        JsonlTracker(run_dir / METRICS_FILE, resumed_step),
        {"rollouts": rollouts, **tracker_copies(config, last_step, resumed_step, on_start, pictures)},
        tracking.rollouts_every,
        tracking.rollout_prompts,
        tracking.timeout_s,
        switched_off,
    )


def tracker_copies(
    config: TrainConfig | SftConfig,
    last_step: int,
    resumed_step: int | None,
    on_start: Callable[[], object],
    pictures: RolloutPictures | None = None,
) -> dict[str, Callable[[], Tracker]]:
    """The trackers of `tracking.to`, used besides metrics.jsonl. pictures: None for a job that samples no rollouts."""
    run, tracking = config.run, config.tracking
    tracked = TrackedRun(
        project=tracking.project,
        name=redact(run.name),
        folder=Path(run.dir),
        config=redacted(config.model_dump()),
        last_step=last_step,
        timeout_s=tracking.timeout_s,
        resumed_step=resumed_step,
    )
    return factories(tracking.to, tracked, pictures, on_start)
