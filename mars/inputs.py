"""What a job reads before any worker starts: the tokenizer and the checked rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mars.config.schema import TrainConfig
from mars.config.templates import template_file, template_folder
from mars.data.order.mixture import PromptMixture
from mars.data.order.stream import PromptStream
from mars.data.pixels.images import decoded_size
from mars.data.prompts.boxes import BoxFrames, box_space_of
from mars.data.prompts.budget import ImageBudget, check_names, limit_sources, num_image_tokens
from mars.data.prompts.chat import PromptEncoder, prompt_length
from mars.data.prompts.lengths import drop_overlong
from mars.data.prompts.templates import PromptTemplate, TemplateOf, apply_templates
from mars.data.prompts.tokenizer import model_type_of
from mars.data.prompts.views import anchor_views, render_view
from mars.data.rows.dataset import PromptSet, check_images, check_num_images, load_prompts
from mars.errors import ConfigError
from mars.rewards.functions import RewardsBySet, check_truth, resolve_spec
from mars.rollout.plan import RolloutPlan
from mars.types import ImageRef, Prompt, RolloutRequest, Sampling, View


@dataclass(frozen=True)
class Inputs:
    """What is known before any worker starts: checked rows, and how the model reads them."""

    encoder: PromptEncoder
    budget: ImageBudget
    train: PromptSet | None
    evaluation: PromptSet | None
    frames: BoxFrames
    config: TrainConfig

    @property
    def max_images(self) -> int:
        """Most images in one prompt."""
        sets = [prompt_set for prompt_set in (self.train, self.evaluation) if prompt_set is not None]
        return max(len(prompt.sources) for prompt_set in sets for prompt in prompt_set.prompts)

    def prompt_length(self, request: RolloutRequest) -> int:
        """Tokens of the request's prompt, images expanded."""
        tokens = [num_image_tokens(decoded_size(image), self.budget) for image in request.images]
        return prompt_length(request.prompt_token_ids, tokens)

    def encode(self, prompt: Prompt, view: View) -> tuple[tuple[int, ...], tuple[ImageRef, ...]]:
        """Prompt ids of a view with one placeholder per image, and its images."""
        messages, images = render_view(prompt, view, self.config.anchor.image_layout)
        return self.encoder.encode(messages, len(images)), images


def load_inputs(config: TrainConfig, with_training_set: bool) -> Inputs:
    """Raises DataError with all unusable rows, SetupError where model files are missing."""
    encoder = PromptEncoder.from_pretrained(config.model.path, trust_remote_code=config.model.trust_remote_code)
    data = config.data
    if not with_training_set and not data.eval_files:
        raise ConfigError("data.eval_files: there is nothing to evaluate on; got []; give a parquet or JSONL file")
    budget = ImageBudget.from_pretrained(config.model.path, data.min_image_pixels, data.max_image_pixels)
    model_type = model_type_of(config.model.path)
    frames = BoxFrames(box_space_of(config.model.box_space, model_type), budget)
    rewards = rewards_of(config)
    resolve_spec(rewards)
    template_of = prompt_templates(data.template, rewards, frames.box_space, model_type)

    def load(files: Sequence[str]) -> PromptSet:
        truth_check = partial(_check_truth, rewards, frames)
        rows = load_prompts(files, data.image_root, data.on_bad_sample, truth_check)
        rewards.check_sets(prompt.data_source for prompt in rows.prompts)
        if data.images_per_row is not None:
            rows = check_num_images(rows, data.images_per_row, data.on_bad_sample)
        if data.decode_at_start:
            rows = check_images(rows, data.on_bad_sample)
        rows = limit_sources(rows, data.source_image_pixels, budget, data.on_bad_sample)
        rows = apply_templates(rows, template_of, data.on_bad_sample)
        return drop_overlong(
            rows, encoder, budget, data.max_prompt_tokens, config.anchor.image_layout, data.on_bad_sample
        )

    train = load(data.train_files) if with_training_set else None
    if train is not None and config.anchor.kind != "none" and all(len(p.sources) < 2 for p in train.prompts):
        raise ConfigError(
            f"anchor.kind: no row of data.train_files has two sources; got {config.anchor.kind}; use anchor=none"
        )
    evaluation = load(data.eval_files) if data.eval_files else None
    loaded = [prompt for rows in (train, evaluation) if rows is not None for prompt in rows.prompts]
    check_names(data.source_image_pixels, loaded)
    if evaluation is not None and config.evaluation.max_samples is not None:
        evaluation = replace(evaluation, prompts=evaluation.prompts[: config.evaluation.max_samples])
    return Inputs(encoder, budget, train, evaluation, frames, config)


def prompt_stream(config: TrainConfig, prompts: Sequence[Prompt]) -> PromptStream:
    """The order of training: all prompts once an epoch, or the files in the shares of data.weights.

    Raises ConfigError where a step would hold a prompt twice.
    """
    data = config.data
    if data.weights is None:
        return PromptStream(prompts, data.prompts_per_step, config.run.seed, data.shuffle)
    sets = [[prompt for prompt in prompts if prompt.row.rpartition(":")[0] == file] for file in data.train_files]
    return PromptMixture(sets, data.weights, data.prompts_per_step, config.run.seed, data.shuffle)


def rewards_of(config: TrainConfig) -> RewardsBySet:
    """What the settings say of the rewards; nothing is loaded."""
    return RewardsBySet(config.reward.function, config.reward.functions)


def prompt_templates(setting: str, rewards: RewardsBySet | None, box_space: str, model_type: str) -> TemplateOf:
    """What `data.template` names for each prompt, for a model; "auto" follows the prompt's reward.

    rewards: None where there are none (`mars sft`). Raises ConfigError.
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
    return lambda prompt: templates[rewards.of(prompt.data_source)]


def evaluation_plan(inputs: Inputs) -> RolloutPlan:
    """What an evaluation asks: the multi view and each source alone, as often and as freely as `evaluation` says."""
    config = inputs.config
    settings = config.evaluation
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


def _check_truth(rewards: RewardsBySet, frames: BoxFrames, prompt: Prompt) -> str | None:
    if not rewards.has(prompt.data_source):
        return None  # the whole set is refused
    truth_size, _ = frames(prompt, None)
    return check_truth(rewards.of(prompt.data_source), prompt.truth, prompt.extra_info, truth_size)
