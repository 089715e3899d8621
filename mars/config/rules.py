"""Rules between settings. Each rule lists the keys it reads; its error names the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mars.config.problem import Problem
from mars.config.templates import is_template, wanted
from mars.rewards.built_in import built_in_names, is_built_in, is_reward, wanted_rewards
from mars.rewards.functions import users_folders

LEAST_TEMPERATURE = 0.01
"""vLLM's smallest temperature above 0 (_MAX_TEMP in vllm/sampling_params.py)."""

_LEAST_IN_FLOAT32 = 1e-6


@dataclass(frozen=True)
class Rule:
    """`broken` gets the values of `keys`, in order. It returns None, or (what is wrong, what to do).

    spares_records: whether the settings that a run has saved may break the rule, because they only have no effect. Then
        it applies to a saved run only if an override sets one of `keys`.
    """

    keys: tuple[str, ...]
    broken: Callable[..., tuple[str, str] | None]
    spares_records: bool = False


def rules_of_record(rules: tuple[Rule, ...], given: Collection[str]) -> tuple[Rule, ...]:
    """The rules that apply to a run's saved settings. given: dotted keys that overrides set."""
    return tuple(rule for rule in rules if not rule.spares_records or not set(rule.keys).isdisjoint(given))


def broken_rules(rules: tuple[Rule, ...], values: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems of all rules whose keys are all in `values` (dotted key -> valid value)."""
    for rule in rules:
        if all(key in values for key in rule.keys):
            found = rule.broken(*(values[key] for key in rule.keys))
            if found is not None:
                yield Problem(rule.keys[0], *found, got=values[rule.keys[0]])


def has_length(num_steps: int | None, num_epochs: int | None) -> tuple[str, str] | None:
    if num_steps is None and num_epochs is None:
        return "the run has no length: run.num_epochs is null too", "set one of the two"
    return None


def _pixels_ordered(smallest: int, largest: int) -> tuple[str, str] | None:
    if smallest > largest:
        return f"larger than data.max_image_pixels={largest}", "lower it, or raise data.max_image_pixels"
    return None


def _source_pixels(budgets: Mapping[str, list[int]], smallest: int, largest: int) -> tuple[str, str] | None:
    for name, pixels in budgets.items():
        if len(pixels) != 2 or pixels[0] > pixels[1]:
            return (
                f"the limits of {name} are not [smallest, largest]",
                "give two integers, such as {infrared: [3136, 250880]}",
            )
        if pixels[0] < smallest or pixels[1] > largest:
            limits = f"data.min_image_pixels={smallest} to data.max_image_pixels={largest}"
            return (
                f"the limits of {name} are not within {limits}",
                "give narrower limits, or widen those for all images",
            )
    return None


def _constant_divisor(tokens: int | None, reduction: str) -> tuple[str, str] | None:
    if reduction == "seq_mean_token_sum_norm" and tokens is None:
        return "algorithm.reduction=seq_mean_token_sum_norm divides by this number", "give an integer > 0"
    if reduction != "seq_mean_token_sum_norm" and tokens is not None:
        return f"has no effect with algorithm.reduction={reduction}", "set it to null"
    return None


def _updates_divide_step(per_update: int, per_step: int) -> tuple[str, str] | None:
    if per_step % per_update:
        return f"does not divide data.prompts_per_step={per_step}", "give a divisor"
    return None


def _prompt_for_each_rank(ranks: int, per_update: int) -> tuple[str, str] | None:
    if ranks > per_update:
        wrong = f"more ranks than the actor.prompts_per_update={per_update} prompts of an update"
        return wrong, "use fewer ranks or more prompts: every rank trains on whole prompts"
    return None


def _context_holds_both(context: int, prompt: int, response: int) -> tuple[str, str] | None:
    if context < prompt + response:
        sum_of = f"data.max_prompt_tokens={prompt} + rollout.max_response_tokens={response}"
        return f"shorter than {sum_of}", f"give {prompt + response} or more"
    return None


def one_in_process(workers: int, kind: str) -> tuple[str, str] | None:
    if kind == "local" and workers != 1:
        return "cluster.kind=local runs one engine and one trainer", "give 1, or cluster=ray"
    return None


def _parallel_in_vllm(size: int, engine: str) -> tuple[str, str] | None:
    if engine != "vllm" and size != 1:
        return f"rollout.engine={engine} has no tensor parallelism", "give 1, and more replicas (rollout.num_workers)"
    return None


def _smallest_temperature(temperature: float, engine: str) -> tuple[str, str] | None:
    if engine == "vllm" and 0 < temperature < LEAST_TEMPERATURE:
        return (
            f"vLLM samples with {LEAST_TEMPERATURE} instead of a smaller temperature, and the trainer would not",
            f"give {LEAST_TEMPERATURE} or more, 0 for greedy answers in an evaluation, or rollout=hf",
        )
    if 0 < temperature < _LEAST_IN_FLOAT32:
        return (
            "logits divided by it can be infinite in float32",
            f"give {_LEAST_IN_FLOAT32} or more, or 0 for greedy answers in an evaluation",
        )
    return None


def attention_on_cpu(attention: str, device: str) -> tuple[str, str] | None:
    if device == "cpu" and attention == "flash_attention_2":
        return "needs a GPU, and the device is cpu", "give sdpa"
    return None


def _floor_of_a_std(std_floor: float, normalize_std: bool) -> tuple[str, str] | None:
    if std_floor > 0 and not normalize_std:
        return (
            "has no effect with algorithm.normalize_std=false, which divides by no standard deviation",
            "set it to 0.0",
        )
    return None


def _rounds_of_selection(rounds: int, selection: str) -> tuple[str, str] | None:
    if rounds == 0:
        return "a step with 0 rounds samples nothing", "give 1 or more (10, say, with nonzero_advantage)"
    if selection == "all" and rounds != 1:
        return "algorithm.selection=all keeps every prompt of one round", "give 1, or selection=nonzero_advantage"
    return None


def _reference_for_kl(coefficient: float, reference: str | None) -> tuple[str, str] | None:
    if coefficient > 0 and not reference:
        return (
            "a KL term needs a reference model, and algorithm.kl_reference is empty",
            "set algorithm.kl_reference, or give 0.0",
        )
    return None


def _dual_clip_of_clip(dual_clip: float | None, loss: str) -> tuple[str, str] | None:
    if dual_clip is not None and loss != "clip":
        return f"algorithm.loss={loss} has no dual clip", "set it to null"
    return None


def _buffer_in_response(buffer: int | None, longest: int) -> tuple[str, str] | None:
    if buffer is not None and buffer > longest:
        return f"longer than rollout.max_response_tokens={longest}", f"give at most {longest}"
    return None


def _known_reward(function: str, functions: Mapping[str, str]) -> tuple[str, str] | None:
    if not functions and not is_reward(function):
        return "no such reward", f"want one of {wanted_rewards()}"
    return None


def _lists_of_users(by_prompt: bool, function: str, functions: Mapping[str, str]) -> tuple[str, str] | None:
    if by_prompt and all(is_built_in(name) for name in functions.values() or [function]):
        return "built-in rewards score one answer by itself", "give false, or a function of your own"
    return None


def _threads_of_one_folder(concurrency: int, functions: Mapping[str, str]) -> tuple[str, str] | None:
    folders = users_folders(functions.values())
    if concurrency > 1 and len(folders) > 1:
        wrong = (
            f"reward.functions has files in several folders ({', '.join(folders)}), whose modules threads would mix up"
        )
        return wrong, "put the files into one folder, or give 1"
    return None


def _known_rewards(functions: Mapping[str, str]) -> tuple[str, str] | None:
    unknown = [data_source for data_source, name in functions.items() if not is_reward(name)]
    if unknown:
        return f"no such reward for {', '.join(unknown)}", f"want one of {wanted_rewards()}"
    return None


def _scorer_of_built_in(scorer: str, function: str, functions: Mapping[str, str]) -> tuple[str, str] | None:
    if scorer == "compat" and not all(map(is_built_in, functions.values() or [function])):
        return f"only the built-in rewards {built_in_names(' and ')} have two scorers", "give strict"
    return None


def _template(setting: str) -> tuple[str, str] | None:
    return None if is_template(setting, with_reward=True) else ("no such template", f"give {wanted(with_reward=True)}")


def template_without_reward(setting: str) -> tuple[str, str] | None:
    return (
        None if is_template(setting, with_reward=False) else ("no such template", f"give {wanted(with_reward=False)}")
    )


def _weight_for_each_file(weights: list[float] | None, files: list[str]) -> tuple[str, str] | None:
    if weights is not None and len(weights) != len(files):
        return f"{len(weights)} weights for the {len(files)} data.train_files", "give one for each file, or null"
    return None


def _shipped_between_processes(transport: str, cluster: str) -> tuple[str, str] | None:
    if transport == "object_store" and cluster == "local":
        return "cluster.kind=local reads images in the driver's process", "give path, or cluster=ray"
    return None


TRANSPORT = Rule(("data.transport", "cluster.kind"), _shipped_between_processes)
PIXELS = (
    Rule(("data.min_image_pixels", "data.max_image_pixels"), _pixels_ordered),
    Rule(("data.source_image_pixels", "data.min_image_pixels", "data.max_image_pixels"), _source_pixels),
)

TRAIN_RULES = (
    Rule(("run.num_steps", "run.num_epochs"), has_length),
    Rule(("model.attention", "cluster.device"), attention_on_cpu),
    Rule(("data.template",), _template),
    Rule(("data.weights", "data.train_files"), _weight_for_each_file),
    *PIXELS,
    TRANSPORT,
    Rule(("algorithm.reduction_tokens", "algorithm.reduction"), _constant_divisor),
    Rule(("algorithm.dual_clip", "algorithm.loss"), _dual_clip_of_clip),
    Rule(("algorithm.kl_coefficient", "algorithm.kl_reference"), _reference_for_kl),
    Rule(("algorithm.overlong_buffer_tokens", "rollout.max_response_tokens"), _buffer_in_response),
    Rule(("algorithm.max_rounds", "algorithm.selection"), _rounds_of_selection),
    Rule(("algorithm.std_floor", "algorithm.normalize_std"), _floor_of_a_std),
    Rule(("rollout.num_workers", "cluster.kind"), one_in_process),
    Rule(("rollout.tensor_parallel_size", "rollout.engine"), _parallel_in_vllm, spares_records=True),
    Rule(("rollout.temperature", "rollout.engine"), _smallest_temperature),
    Rule(("evaluation.temperature", "rollout.engine"), _smallest_temperature),
    Rule(("rollout.max_model_len", "data.max_prompt_tokens", "rollout.max_response_tokens"), _context_holds_both),
    Rule(("reward.function", "reward.functions"), _known_reward),
    Rule(("reward.functions",), _known_rewards),
    Rule(("reward.scorer", "reward.function", "reward.functions"), _scorer_of_built_in),
    Rule(("reward.concurrency", "reward.functions"), _threads_of_one_folder),
    Rule(("reward.by_prompt", "reward.function", "reward.functions"), _lists_of_users),
    Rule(("actor.num_workers", "cluster.kind"), one_in_process),
    Rule(("actor.num_workers", "actor.prompts_per_update"), _prompt_for_each_rank),
    Rule(("actor.prompts_per_update", "data.prompts_per_step"), _updates_divide_step),
)
