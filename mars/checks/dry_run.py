"""`--dry-run`: check settings, data and model files and print what a step would be, without starting any worker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from mars.added_rows import training_stream
from mars.algorithms.allocation import MOST
from mars.answers.record import reward_input
from mars.checks.answers import EMPTY_ANSWER, answered_perfectly
from mars.checks.gpu_turns import Demand, demands, fit_lines, host_line, sequences_line
from mars.checks.hooks import checked_hooks
from mars.checks.memory import SHARDED, engine_memory, kv_bytes_per_token, read_shape, trainer_memory
from mars.checks.model import model_check
from mars.checks.packages import machine_lines
from mars.checks.rewards import try_rewards
from mars.checks.trackers import with_checked_trackers
from mars.checks.trained import num_trained
from mars.checks.weights import INDEX, SINGLE
from mars.config.actor_sections import PolicyTrainingConfig
from mars.config.schema import ModelConfig, TrainConfig
from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import num_image_tokens
from mars.data.prompts.chat import PromptEncoder, prompt_length
from mars.data.prompts.tokenizer import read_json
from mars.data.prompts.views import anchor_views
from mars.errors import DataError
from mars.fit import last_step
from mars.hooks.load import with_resolved_recipe
from mars.inputs import Inputs, load_inputs, prompt_processor, rewards_of
from mars.output.text import visible
from mars.rewards.functions import load_list_reward, load_reward
from mars.types import RewardResult

logger = logging.getLogger(__name__)
IN_ORDER = "dry run: settings, data and model files are in order"

_SAMPLES = 4
_ANSWERS = ("perfect", "empty")


def report(config: TrainConfig) -> None:
    """Do a run's checks, decode all images in full, and try some rows (`sample_lines`). Raises as a run does."""
    config = with_checked_trackers(with_resolved_recipe(config))
    data = config.data.model_copy(update={"decode_at_start": True})
    with model_check(config, in_process=True):
        inputs = load_inputs(config.model_copy(update={"data": data}), with_training_set=True)
    (load_list_reward if config.reward.by_prompt else load_reward)(rewards_of(config), config.reward.scorer)
    checked_hooks(config)
    warnings: list[str] = []
    lines = [*summary(config, inputs), *sample_lines(config, inputs, warnings.append), *memory_lines(config)]
    lines += [*machine_lines(config), IN_ORDER]
    sys.stdout.write("".join(f"{visible(line)}\n" for line in lines))
    sys.stdout.flush()
    for text in warnings:  # after "in order", so that nobody overlooks a reward that fails
        logger.warning("%s", text)


def summary(config: TrainConfig, inputs: Inputs) -> list[str]:
    """The batch arithmetic, one fact per line."""
    if inputs.train is None:
        raise ValueError("a summary needs the training set")
    prompts, data, actor, rollout = inputs.train.prompts, config.data, config.actor, config.rollout
    num_anchor_views = [len(anchor_views(prompt, config.anchor.kind)) for prompt in prompts]
    anchors = fmean(num_anchor_views) * config.anchor.samples_per_view
    per_prompt = rollout.samples_per_prompt + anchors
    lengths = list(inputs.train.lengths.values())
    row_tokens = max(lengths) + rollout.max_response_tokens
    stream, _ = training_stream(config, inputs)
    steps = last_step(config.run, stream)
    return [
        f"training set      {inputs.train.counted('prompts')}",
        f"held-out set      {'none' if inputs.evaluation is None else inputs.evaluation.counted('prompts')}",
        f"sources           {histogram([len(prompt.sources) for prompt in prompts])}",
        f"prompt tokens     mean {fmean(lengths):.0f}, longest {max(lengths)} of {data.max_prompt_tokens} allowed",
        *opening_lines(inputs.encoder),
        f"steps             {steps} = {steps * data.prompts_per_step / len(prompts):.2f} epochs",
        f"a prompt          {_multi_range(config)} multi + {anchors:g} anchor rollouts",
        f"a step            {data.prompts_per_step} prompts, {data.prompts_per_step * per_prompt:g} rollouts, "
        f"{_trained_range(config, anchors)} of them trained on",
        f"updates per step  {data.prompts_per_step // actor.prompts_per_update} of {actor.prompts_per_update} prompts "
        f"over {actor.num_workers} rank(s)",
        f"a forward         {max(actor.tokens_per_forward // row_tokens, 1)} or more rows of up to {row_tokens} tokens",
    ]


def _multi_range(config: TrainConfig) -> str:
    """How many multi rollouts a prompt gets on average, and their range unless `anchor.allocation` is "even"."""
    samples = config.rollout.samples_per_prompt
    if config.anchor.allocation == "even":
        return str(samples)
    first = samples - samples // 2
    return f"{samples} ({first} to {MOST * samples}, by anchor.allocation)"


def _trained_range(config: TrainConfig, anchors: float) -> str:
    """How many of a step's rollouts are trained on. With `anchor.guide` anchors may be trained on too."""
    prompts = config.data.prompts_per_step
    multi = prompts * config.rollout.samples_per_prompt
    return str(multi) if config.anchor.guide == "off" else f"{multi} to {multi + prompts * anchors:g}"


def opening_lines(encoder: PromptEncoder) -> list[str]:
    """For a thinking model: a line on the opening of its responses, which is part of the prompt."""
    if not encoder.opening:
        return []
    return [
        f"responses         begin with {encoder.opening.strip()}, which the chat template puts at the end of the prompt"
    ]


def sample_lines(config: TrainConfig, inputs: Inputs, warn: Callable[[str], None] = logger.warning) -> list[str]:
    """Some rows decoded, processed, counted, and scored on a perfect and an empty answer.

    Raises DataError if the model's processor makes a different number of prompt tokens than mars counted, and
    ConfigError as `try_rewards` does. warn: gets the warnings of `try_rewards`.
    """
    from mars.build import build_scorer

    if inputs.train is None:
        raise ValueError("samples need the training set")
    prompts, frames, rewards = inputs.train.prompts, inputs.frames, rewards_of(config)
    step = max(len(prompts) // _SAMPLES, 1)
    processor = prompt_processor(config, inputs.encoder.token_rules(), cached_images=0)
    scorer = build_scorer(config)
    try:
        lines = []
        for prompt in prompts[::step][:_SAMPLES]:
            token_ids, images = inputs.encode(prompt, None)
            counted = [num_image_tokens(decoded_size(image), inputs.budget) for image in images]
            expected, made = prompt_length(token_ids, counted), len(processor.process(token_ids, images).input_ids)
            if made != expected:
                raise DataError(
                    f"{prompt.row}: {expected} prompt tokens counted, the processor made {made}; "
                    "report this as a bug of mars"
                )
            perfect = answered_perfectly(prompt, None, rewards.of(prompt.data_source), frames)
            scores = scorer.score([perfect, reward_input(prompt, None, EMPTY_ANSWER, frames)])
            shown = " + ".join(f"{w}x{h}: {n}" for (w, h), n in zip((i.size for i in images), counted, strict=True))
            lines += [
                f"sample            {prompt.row}",
                f"                  {made} prompt tokens, images {shown or 'none'}",
                *[f"                  {name} answer: {_score(r)}" for name, r in zip(_ANSWERS, scores, strict=True)],
            ]
        try_rewards(scorer, inputs, prompts, warn)
        return lines
    finally:
        scorer.close()


def _score(result: RewardResult) -> str:
    return f"failed, {result.failed}" if result.failed else f"score {result.score:.4g}, accuracy {result.accuracy:.4g}"


def memory_lines(config: TrainConfig) -> list[str]:
    """The estimate of mars/checks/memory.py for an actor rank and an engine's GPU, in GiB, and whether it fits."""
    rollout, actor, cluster, algorithm = config.rollout, config.actor, config.cluster, config.algorithm
    shares_base = actor.lora.rank > 0 and algorithm.kl_reference == config.model.path
    with_reference = algorithm.loads_reference and not shares_base
    lines, model = rank_memory_lines(config.model, actor, with_reference), _on_disk(config.model)
    if model is None:
        return lines
    shape = read_shape(read_json(model.path, "config.json"), Path(model.path))
    sizes = {"tensor_parallel_size": rollout.tensor_parallel_size, "dtype": model.dtype}
    engine = engine_memory(shape, max_num_seqs=rollout.max_num_seqs, max_model_len=rollout.max_model_len, **sizes)
    per_token = kv_bytes_per_token(shape, model.dtype)
    lines.append(
        f"memory per engine {_sizes(engine)}, if all {rollout.max_num_seqs} sequences have {rollout.max_model_len} "
        f"tokens; {per_token:,} bytes a token"
    )
    if cluster.device == "cuda":
        on_gpu = _on_gpu(_rank_memory(model, actor, with_reference), actor.offload)
        at_once = 1 if rollout.engine == "vllm" else rollout.max_num_seqs
        least = engine_memory(shape, max_num_seqs=at_once, max_model_len=rollout.max_model_len, **sizes)
        gpu_bytes = _gpu_bytes(cluster.gpu_memory_gib)
        lines += fit_lines(demands(on_gpu, least, rollout, cluster), gpu_bytes)
        lines += sequences_line(least, rollout, gpu_bytes)
        leaving = ("parameters", "optimizer states", "reference model")
        lines += host_line(sum(on_gpu.get(name, 0) for name in leaving), cluster)
    return lines


def rank_memory_lines(model: ModelConfig, training: PolicyTrainingConfig, with_reference: bool) -> list[str]:
    """How many parameters the model has and trains, and the estimated memory of one rank."""
    found = _on_disk(model)
    if found is None:
        return [f"memory            not estimated, because the weights are not here; first: hf download {model.path}"]
    shape = read_shape(read_json(found.path, "config.json"), Path(found.path))
    trained = num_trained(found, training)
    adapters = trained if training.lora.rank else 0
    return [
        f"model             {shape.num_parameters:,} parameters{_trained(trained, adapters, shape.num_parameters)}",
        *_rank_lines(_rank_memory(found, training, with_reference), training.offload),
    ]


def rank_fit_lines(model: ModelConfig, training: PolicyTrainingConfig, gpu_memory_gib: float | None) -> list[str]:
    """Whether an update fits into a GPU that does nothing else. gpu_memory_gib: cluster.gpu_memory_gib."""
    found = _on_disk(model)
    if found is None:
        return []
    on_gpu = _on_gpu(_rank_memory(found, training, with_reference=False), training.offload)
    return list(fit_lines([Demand("update", on_gpu)], _gpu_bytes(gpu_memory_gib)))


def _rank_memory(model: ModelConfig, training: PolicyTrainingConfig, with_reference: bool) -> dict[str, int]:
    shape, trained = read_shape(read_json(model.path, "config.json"), Path(model.path)), num_trained(model, training)
    adapters = trained if training.lora.rank else 0
    return trainer_memory(
        replace(shape, num_parameters=shape.num_parameters + adapters),
        num_trained=trained,
        num_ranks=training.fsdp_size or training.num_workers,
        dtype=model.dtype,
        tokens_per_forward=training.tokens_per_forward,
        logprob_chunk_tokens=training.logprob_chunk_tokens,
        gradient_checkpointing=training.gradient_checkpointing,
        with_reference=with_reference,
    )


def _on_disk(model: ModelConfig) -> ModelConfig | None:
    """The settings, with a hub name replaced by its folder in the cache. None if the weights are not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model.path).is_dir():
        return model
    for name in (SINGLE, INDEX):
        found = try_to_load_from_cache(model.path, name)
        if isinstance(found, str):
            return model.model_copy(update={"path": str(Path(found).parent)})
    return None


def _gpu_bytes(stated_gib: float | None) -> int | None:
    """Memory of a GPU in bytes: `stated_gib`, or that of this machine's first GPU; None if it has no GPU."""
    import torch

    if stated_gib is not None:
        return int(stated_gib * 2**30)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _rank_lines(parts: Mapping[str, int], offload: str) -> list[str]:
    """The memory of a rank, for a terminal. parts: the result of `trainer_memory`."""
    on_gpu = _on_gpu(parts, offload)
    on_cpu = {name: size for name, size in parts.items() if name not in on_gpu}
    return [f"memory per rank   {_sizes(on_gpu)}", *([f"CPU memory a rank {_sizes(on_cpu)}"] if on_cpu else [])]


def _on_gpu(parts: Mapping[str, int], offload: str) -> dict[str, int]:
    """The parts of `trainer_memory` that are on the rank's GPU. offload: actor.offload."""
    return {name: size for name, size in parts.items() if offload == "none" or name not in SHARDED}


def _trained(trained: int, adapters: int, total: int) -> str:
    if adapters:
        return f", and {adapters:,} in LoRA adapters, which alone are trained"
    return f", {trained:,} of them trained" if trained != total else ""


def _sizes(parts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{name} {count / 2**30:.2f}" for name, count in parts.items())
    return f"about {sum(parts.values()) / 2**30:.2f} GiB: {listed}"


def histogram(counts: list[int]) -> str:
    return ", ".join(f"{counts.count(k)} rows with {k}" for k in sorted(set(counts)))
