"""`--dry-run`: check settings, data and model files and print what a step would be, without starting any worker."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from mars.config.schema import TrainConfig
from mars.data.lengths import longest_view
from mars.data.views import views
from mars.errors import EnvironmentProblem
from mars.fit import FitSettings, last_step
from mars.inputs import Inputs, load_inputs, prompt_stream
from mars.rewards.functions import load_reward


def report(config: TrainConfig) -> None:
    """Raises the same errors as a run would, and decodes every image in full."""
    data = config.data.model_copy(update={"decode_at_start": True})
    inputs = load_inputs(config.model_copy(update={"data": data}), with_training_set=True)
    load_reward(config.reward.function, config.reward.scorer)
    check_model_files(config.model.path, trust_remote_code=config.model.trust_remote_code)
    check_kl_reference(config)
    sys.stdout.write("\n".join(summary(config, inputs)) + "\n")


def check_model_files(model_path: str, *, trust_remote_code: bool = False) -> None:
    """A local folder must hold weights and a configuration that transformers knows; a hub name is only looked up.

    Raises EnvironmentProblem.
    """
    from transformers import AutoConfig

    folder = Path(model_path)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise EnvironmentProblem(f"model.path: no *.safetensors in {model_path}; give a complete Hugging Face folder")
    try:
        AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"model.path: {error}") from error


def check_kl_reference(config: TrainConfig) -> None:
    reference = config.algorithm.kl_reference
    if config.algorithm.kl_coefficient > 0 and reference is not None and reference != config.model.path:
        from mars.actor.reference import check_reference

        check_reference(reference, config.model.path, trust_remote_code=config.model.trust_remote_code)


def summary(config: TrainConfig, inputs: Inputs) -> list[str]:
    """The batch arithmetic, one fact per line."""
    if inputs.train is None:
        raise ValueError("a summary needs the training set")
    prompts, data, actor, rollout = inputs.train.prompts, config.data, config.actor, config.rollout
    anchor_views = [len(views(prompt, config.anchor.kind)) for prompt in prompts]
    anchors = fmean(anchor_views) * config.anchor.mono_samples_per_source
    per_prompt = rollout.samples_per_prompt + anchors
    layout = config.anchor.image_layout
    lengths = [longest_view(prompt, inputs.encoder, inputs.budget, layout) for prompt in prompts]
    row_tokens = max(lengths) + rollout.max_response_tokens
    stream = prompt_stream(config, prompts)
    fit = FitSettings(config.run.num_steps, config.run.num_epochs, 0, False, rollout.logprob_diff_alarm)
    steps = last_step(fit, stream)
    dropped = sum(inputs.train.dropped.values())
    held_out = len(inputs.evaluation.prompts) if inputs.evaluation is not None else 0
    return [
        f"training set      {len(prompts)} prompts, {dropped} dropped {dict(inputs.train.dropped) or ''}".rstrip(),
        f"held-out set      {held_out} prompts",
        f"sources           {_histogram([len(prompt.sources) for prompt in prompts])}",
        f"prompt tokens     mean {fmean(lengths):.0f}, longest {max(lengths)} of {data.max_prompt_tokens} allowed",
        f"steps             {steps} = {steps * data.prompts_per_step / len(prompts):.2f} epochs",
        f"a prompt          {rollout.samples_per_prompt} multi + {anchors:g} anchor rollouts",
        f"a step            {data.prompts_per_step} prompts, {data.prompts_per_step * per_prompt:g} rollouts, "
        f"{data.prompts_per_step * rollout.samples_per_prompt} of them trained on",
        f"updates per step  {data.prompts_per_step // actor.prompts_per_update} of {actor.prompts_per_update} prompts "
        f"over {actor.num_workers} rank(s)",
        f"a forward         {max(actor.tokens_per_forward // row_tokens, 1)} or more rows of up to {row_tokens} tokens",
        "dry run: settings, data and model files are in order",
    ]


def _histogram(counts: list[int]) -> str:
    return ", ".join(f"{counts.count(k)} rows with {k}" for k in sorted(set(counts)))
