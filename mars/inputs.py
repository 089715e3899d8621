"""Load what a job needs before any worker starts: the tokenizer and the checked rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mars.config.ramp_section import weights_at
from mars.config.schema import SftConfig, TrainConfig
from mars.config.templates import BY_REWARD, template_file, template_folder
from mars.data.order.mixture import ChangingWeights, PromptMixture
from mars.data.order.stream import PromptStream
from mars.data.pixels.images import DecodeImage, decode_image, decoded_size
from mars.data.prompts.boxes import BoxFrames, truth_frame
from mars.data.prompts.budget import ImageBudget, check_limits, num_image_tokens, source_budgets
from mars.data.prompts.chat import CACHED_PROMPTS, PromptEncoder, prompt_length
from mars.data.prompts.prepare import PromptSet, RowSettings, prepare_files, warn_of_silent_prompts
from mars.data.prompts.processor import PromptProcessor
from mars.data.prompts.templates import PromptTemplate, TemplateOf
from mars.data.prompts.tokenizer import model_type_of, read_json
from mars.data.prompts.views import anchor_views, render_view
from mars.data.rows.dataset import TruthCheck
from mars.data.rows.problems import refuse_or_drop
from mars.errors import ConfigError
from mars.families.table import check_language, family_of
from mars.hooks.contract import SamplerSetup
from mars.hooks.known_prompts import KnownPrompts
from mars.hooks.load import load_sampler
from mars.hooks.prompt_sampler import SampledRounds
from mars.hooks.step_hooks import StepHooks
from mars.rewards.functions import RewardsBySet, resolve_spec, truth_check
from mars.rollout.extras import ExtraPlan
from mars.rollout.forced_starts import start_of_sources
from mars.rollout.plan import RolloutPlan
from mars.types import ImageRef, Prompt, RolloutRequest, Sampling, TokenRules, View


@dataclass(frozen=True)
class PromptFormat:
    """How to write prompts for a model: its tokenizer, image sizes and frame of boxes, from the model's files."""

    encoder: PromptEncoder
    budget: ImageBudget
    frames: BoxFrames


@dataclass(frozen=True)
class Inputs:
    """The checked rows of a job, and how to write prompts for its model."""

    encoder: PromptEncoder
    budget: ImageBudget
    train: PromptSet | None
    evaluation: PromptSet | None
    frames: BoxFrames
    config: TrainConfig

    @property
    def max_images(self) -> int:
        """The largest number of images in one prompt."""
        sets = [prompt_set for prompt_set in (self.train, self.evaluation) if prompt_set is not None]
        return max(len(prompt.sources) for prompt_set in sets for prompt in prompt_set.prompts)

    def prompt_length(self, request: RolloutRequest) -> int:
        """Number of tokens in the request's prompt, including image tokens."""
        tokens = [num_image_tokens(decoded_size(image), self.budget) for image in request.images]
        return prompt_length(request.prompt_token_ids, tokens)

    def encode(self, prompt: Prompt, view: View) -> tuple[tuple[int, ...], tuple[ImageRef, ...]]:
        """The token ids of a view's prompt, with one placeholder per image, and the images of the view."""
        messages, images = render_view(prompt, view, self.config.anchor.image_layout)
        return self.encoder.encode(messages, len(images)), images


def load_inputs(config: TrainConfig, with_training_set: bool) -> Inputs:
    """Load tokenizer and rows. Raises ConfigError, DataError (`refuse_or_drop`), SetupError for missing model files."""
    data, rewards = config.data, rewards_of(config)
    if not with_training_set and not data.eval_files:
        raise ConfigError("data.eval_files: there is nothing to evaluate on; got []; give a parquet or JSONL file")
    resolve_spec(rewards)
    form = prompt_format(config)
    settings = row_settings(config, form)
    train_set = (data.train_files if with_training_set else [], settings)
    evaluation_set = (data.eval_files, evaluation_settings(settings))
    prepared = prepare_files({"train": train_set, "evaluation": evaluation_set})
    rewards.check_sets(prompt.data_source for rows in prepared.values() for prompt in rows.rendered)
    if data.template == BY_REWARD:
        warn_of_silent_prompts(list(prepared.values()))
    if data.on_bad_sample == "error":
        problems = [problem for rows in prepared.values() for problem in rows.problems]
        refuse_or_drop(problems, sum(rows.num_rows for rows in prepared.values()), "error")
    usable = {name: rows.usable(data.on_bad_sample) for name, rows in prepared.items()}
    train, evaluation = usable.get("train"), usable.get("evaluation")
    if train is not None and config.anchor.kind != "none" and all(len(p.sources) < 2 for p in train.prompts):
        raise ConfigError(
            f"anchor.kind: no row of data.train_files has two sources; got {config.anchor.kind}; use anchor=none"
        )
    check_limits(data.source_image_pixels, form.budget, [p for rows in usable.values() for p in rows.prompts])
    if evaluation is not None and config.evaluation.max_samples is not None:
        evaluation = replace(evaluation, prompts=evaluation.prompts[: config.evaluation.max_samples])
    return Inputs(form.encoder, form.budget, train, evaluation, form.frames, config)


def prompt_format(config: TrainConfig | SftConfig) -> PromptFormat:
    """Read the model's files. Raises SetupError if one is missing, or if the model's family is not supported."""
    model = config.model
    trust, cached = model.trust_remote_code, _cached_prompts(config)
    encoder = PromptEncoder.from_pretrained(model.path, trust_remote_code=trust, cached_prompts=cached)
    budget = image_budget(config)
    where = f"model.path: {model.path}/config.json"
    family = family_of(model_type_of(model.path), where)
    check_language(family, read_json(model.path, "config.json"), where)
    box_space = family.box_space if model.box_space == "auto" else model.box_space
    return PromptFormat(encoder, budget, BoxFrames(box_space, budget))


def _cached_prompts(config: TrainConfig | SftConfig) -> int:
    """Number of views whose prompt token ids the encoder caches. A view is encoded twice: to read its images ahead, and
    to sample it. The number is enough for two rounds of prompts with four views or fewer."""
    if isinstance(config, SftConfig):
        return CACHED_PROMPTS
    return max(CACHED_PROMPTS, 2 * 4 * config.data.prompts_per_step)


def image_budget(config: TrainConfig | SftConfig) -> ImageBudget:
    """The limits of image sizes for all sources that have no limits of their own in data.source_image_pixels."""
    return ImageBudget.from_pretrained(config.model.path, config.data.min_image_pixels, config.data.max_image_pixels)


def row_settings(config: TrainConfig | SftConfig, form: PromptFormat) -> RowSettings:
    """How to turn rows of a cold start, or training rows, into prompts. Raises ConfigError for an invalid template.

    A cold start has no reward to check truths with, and takes any number of images per row. It always decodes all
    images while it loads the rows.
    """
    data, model_type = config.data, model_type_of(config.model.path)
    rewards = rewards_of(config) if isinstance(config, TrainConfig) else None
    common = RowSettings(
        image_root=data.image_root,
        check_truth=_truth_check(rewards),
        needs_response=isinstance(config, SftConfig),
        images_per_row=None,
        decode_images=True,
        source_budgets=source_budgets(data.source_image_pixels, form.budget),
        budget=form.budget,
        template_of=prompt_templates(data.template, rewards, form.frames.box_space, model_type),
        encoder=form.encoder,
        image_layout="single",
        max_prompt_tokens=data.max_prompt_tokens,
    )
    if isinstance(config, SftConfig):
        return common
    kind = "none" if config.anchor.kind == "forced_source" else config.anchor.kind  # its anchors show all images
    return replace(
        common,
        shown_views=partial(anchor_views, anchor_kind=kind),
        own_wording=config.anchor.wording == "per_view",
        images_per_row=config.data.images_per_row,
        decode_images=config.data.decode_at_start,
        image_layout=config.anchor.image_layout,
    )


def evaluation_settings(settings: RowSettings) -> RowSettings:
    """`settings` for the evaluation rows of a run: an evaluation shows each source alone, for any `anchor.kind`."""
    return replace(settings, shown_views=partial(anchor_views, anchor_kind="mono"))


def prompt_processor(
    config: TrainConfig | SftConfig, rules: TokenRules, cached_images: int, decode: DecodeImage = decode_image
) -> PromptProcessor:
    """Build the PromptProcessor, with a cache for `cached_images` images of the largest size in `image_budget`."""
    budget = image_budget(config)
    return PromptProcessor(
        config.model.path,
        decode=decode,
        budget=budget,
        rules=rules,
        cache_bytes=cached_images * budget.max_bytes,
        trust_remote_code=config.model.trust_remote_code,
    )


def prompt_stream(
    config: TrainConfig, prompts: Sequence[Prompt], known: KnownPrompts | None
) -> PromptStream | SampledRounds:
    """The order of the training prompts: once per epoch, mixed by `data.weights`, or as `recipe.sampler` chooses.

    config: with a section `recipe` that `mars.hooks.load.resolved` has returned. known: for a sampler that adds rows.
    Raises ConfigError if a step would have a prompt twice.
    """
    data = config.data
    if data.weights is None and config.recipe.sampler is None:
        return PromptStream(prompts, data.prompts_per_step, config.run.seed, data.shuffle)
    sets = [[prompt for prompt in prompts if prompt.row.rpartition(":")[0] == file] for file in data.train_files]
    setup = SamplerSetup(
        sets=tuple(map(tuple, sets)),
        weights=None if data.weights is None else tuple(data.weights),
        shuffle=data.shuffle,
        prompts_per_step=data.prompts_per_step,
        samples_per_prompt=config.rollout.samples_per_prompt,
        seed=config.run.seed,
    )
    sampler = load_sampler(config.recipe, setup, known, config.ramps)
    if sampler is not None:
        return sampler
    assert data.weights is not None  # else a plain stream
    ramped = weights_at(data.weights, config.ramps)
    weights = data.weights if ramped is None else ChangingWeights(*ramped)
    return PromptMixture(sets, weights, data.prompts_per_step, config.run.seed, data.shuffle)


def rewards_of(config: TrainConfig) -> RewardsBySet:
    """The reward of each `data_source`, from the settings. Loads no function."""
    return RewardsBySet(config.reward.function, config.reward.functions)


def prompt_templates(setting: str, rewards: RewardsBySet | None, box_space: str, model_type: str) -> TemplateOf:
    """The template of each prompt by `data.template`; "auto" selects the template of the prompt's reward.

    rewards: None for `mars sft`. Raises ConfigError if a template does not exist.
    """

    def make(function: str | None) -> PromptTemplate | None:
        file = template_file(setting, function)
        if file is None:
            return None
        return PromptTemplate(file, template_folder(), box_space=box_space, model_type=model_type)

    if rewards is None:
        template = make(None)
        return lambda prompt: template
    templates = {function: make(function) for function in rewards.names}
    return lambda prompt: templates[rewards.of(prompt.data_source)] if rewards.has(prompt.data_source) else None


def training_plan(inputs: Inputs, hooks: StepHooks) -> RolloutPlan:
    """The plan of a step: multi view and anchors by the sections `rollout` and `anchor`, and a recipe's requests."""
    config, prompts = inputs.config, () if inputs.train is None else inputs.train.prompts
    rollout, anchor = config.rollout, config.anchor
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_response_tokens)
    return RolloutPlan(
        multi_samples=rollout.samples_per_prompt,
        anchor_samples=anchor.samples_per_view,
        multi_sampling=sampling,
        anchor_sampling=sampling if anchor.sampling == "policy" else replace(sampling, temperature=0.0, top_p=1.0),
        anchor_views=partial(anchor_views, anchor_kind=anchor.kind),
        encode=inputs.encode,
        seed=config.run.seed,
        extras=None if hooks.requests is None else _extra_plan(inputs, hooks, sampling),
        allocation=anchor.allocation,
        start_of_source=start_of_sources(anchor.forced_start, inputs.encoder.encode_response, sampling, prompts),
    )


def _extra_plan(inputs: Inputs, hooks: StepHooks, sampling: Sampling) -> ExtraPlan:
    return ExtraPlan(
        before=hooks.asked_before,
        after=hooks.asked_after,
        encode=inputs.encoder.encode,
        encode_response=inputs.encoder.encode_response,
        prompt_length=inputs.prompt_length,
        sampling=sampling,
        max_response_tokens=sampling.max_response_tokens,
        max_prompt_tokens=inputs.config.data.max_prompt_tokens,
        max_images=inputs.max_images,
        part_weights=bool(inputs.config.algorithm.part_weights),
        seed=inputs.config.run.seed,
    )


def evaluation_plan(inputs: Inputs) -> RolloutPlan:
    """The plan of an evaluation: the multi view and each source alone, sampled as the section `evaluation` says."""
    config, settings = inputs.config, inputs.config.evaluation
    sampling = Sampling(settings.temperature, settings.top_p, 0, config.rollout.max_response_tokens)
    return RolloutPlan(
        multi_samples=settings.samples_per_prompt,
        anchor_samples=settings.samples_per_prompt,
        multi_sampling=sampling,
        anchor_sampling=sampling,
        anchor_views=partial(anchor_views, anchor_kind="mono"),
        encode=inputs.encode,
        seed=config.run.seed,
    )


def _truth_check(rewards: RewardsBySet | None) -> TruthCheck:
    """A function: prompt -> what its reward finds wrong with its truth; None if nothing, or if it has no reward."""
    if rewards is None:
        return lambda prompt: None
    checks = {name: truth_check(name) for name in rewards.names}

    def check(prompt: Prompt) -> str | None:
        if not rewards.has(prompt.data_source):
            return None
        own = checks[rewards.of(prompt.data_source)]
        return own(prompt.truth, prompt.extra_info, truth_frame(prompt))

    return check
