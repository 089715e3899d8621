"""Finds the reward function that a configuration names: a built-in reward, or a function in a user's file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.errors import ConfigError
from mars.plugin import load, resolve
from mars.rewards.built_in import BUILT_IN, built_in_names, is_built_in, is_reward, wanted_rewards
from mars.rewards.contract import CheckTruth, RewardFn, RewardListFn, ScorerName
from mars.rewards.own_checks import load_check
from mars.rewards.returned import as_result, as_results
from mars.types import RewardInput

_VERL_NAMES = ("data_source", "solution_str", "ground_truth", "extra_info")
_VERL_LISTS = ("data_sources", "solution_strs", "ground_truths", "extra_infos")
_SIGNATURES = f"(item: RewardInput) or ({', '.join(_VERL_NAMES)})"
_LIST_SIGNATURES = f"(items: list[RewardInput]) or ({', '.join(_VERL_LISTS)})"


@dataclass(frozen=True)
class RewardsBySet:
    """Which reward scores a row: `by_set[data_source]`, or `function` for every row if `by_set` is empty.

    function: `reward.function`. by_set: `reward.functions`, data_source -> reward.
    Example: RewardsBySet("grounding", {"llvip": "grounding", "spatialqa": "vqa"}).of("spatialqa") == "vqa".
    """

    function: str
    by_set: Mapping[str, str]

    def __str__(self) -> str:
        """The rewards, for messages: "grounding", or "llvip: grounding, spatialqa: vqa"."""
        return ", ".join(f"{data_source}: {name}" for data_source, name in self.by_set.items()) or self.function

    @property
    def names(self) -> tuple[str, ...]:
        """Each reward once."""
        return tuple(dict.fromkeys(self.by_set.values())) or (self.function,)

    def of(self, data_source: str) -> str:
        """The reward of rows with this `data_source`. Raises KeyError if there is none; `check_sets` refuses such rows
        when they are loaded."""
        return self.by_set[data_source] if self.by_set else self.function

    def has(self, data_source: str) -> bool:
        return not self.by_set or data_source in self.by_set

    def check_sets(self, data_sources: Iterable[str]) -> None:
        """Raises ConfigError that names each of `data_sources` that has no reward. `by_set` may also have rewards for
        others, because an evaluation may use only some of the data_sources of a run."""
        without = sorted({data_source for data_source in data_sources if not self.has(data_source)})
        if without:
            raise ConfigError(
                f"reward.functions: no reward for {', '.join(map(repr, without))}; "
                f"got {dict(self.by_set)}; name one for every data_source of the rows"
            )


RewardSpec = str | RewardsBySet
"""One reward for all rows, or one for each set."""


def resolve_spec(spec: RewardSpec) -> RewardSpec:
    """`spec` with absolute paths. Raises ConfigError unless each reward is built in or "file.py:function" of a file
    that exists. Runs nothing of the file."""
    if isinstance(spec, str):
        return _resolve("reward.function", spec)
    if not spec.by_set:
        return RewardsBySet(_resolve("reward.function", spec.function), {})
    by_set = {data_source: _resolve("reward.functions", name) for data_source, name in spec.by_set.items()}
    return RewardsBySet(spec.function, by_set)


def _resolve(setting: str, name: str) -> str:
    if is_built_in(name):
        return name
    if not is_reward(name):
        raise ConfigError(f"{setting}: no such reward; got {name!r}; want one of {wanted_rewards()}")
    return resolve(setting, name, "want path/to/file.py:name")


def user_functions(spec: RewardSpec) -> tuple[str, ...]:
    """The rewards that come from users' files, as "/absolute/file.py:function". Raises as `resolve_spec` does."""
    resolved = resolve_spec(spec)
    names = (resolved,) if isinstance(resolved, str) else resolved.names
    return tuple(name for name in names if not is_built_in(name))


def users_folders(names: Iterable[str]) -> list[str]:
    """The folders of the rewards that come from users' files, as absolute paths. The files need not exist."""
    files = (name.rpartition(":")[0] for name in names if not is_built_in(name))
    return sorted({str(Path(os.path.expanduser(file)).absolute().parent) for file in files})


def perfect_answer(function: str, item: RewardInput) -> str:
    """The response to `item` of a model that knows its truth; `item.response` is ignored.

    For a user's own function: a think block, and the truth in answer tags. Raises DataError for a truth that a built-in
    reward cannot read.
    """
    if is_built_in(function):
        return BUILT_IN[function].perfect_answer(item)
    return f"<think>The truth.</think><answer>{item.truth}</answer>"


def load_reward(spec: RewardSpec, scorer: ScorerName, *, in_threads: bool = False) -> RewardFn:
    """The function of a built-in name or of "path/to/file.py:function". For `RewardsBySet`, data_source selects it.

    scorer: the formula of a built-in reward's score. "compat" is refused for a user's function.
    in_threads: several threads of this process may call it at once; users' functions must then be in one folder.

    A user's function has mars' signature, `(item: RewardInput)`, or verl's, `(data_source, solution_str, ground_truth,
    extra_info)`, recognised by the parameter names `solution_str` and `ground_truth` and called by keyword.
    The result of every reward, built in or not, has passed `as_result`: its numbers are finite and in range, or it has
    failed. Raises ConfigError naming `reward.function`, `.functions`, `.scorer` or `.concurrency`.
    """
    spec = resolve_spec(spec)
    if isinstance(spec, RewardsBySet):
        _check_folders(spec, in_threads)
        rewards = {name: load_reward(name, scorer, in_threads=in_threads) for name in spec.names}
        return lambda item: rewards[spec.of(item.data_source)](item)
    if is_built_in(spec):
        reward = BUILT_IN[spec]
        reward.prepare()
        score = reward.score if scorer == "strict" else reward.compat
        return lambda item: as_result(score(item))
    _check_scorer(spec, scorer)
    call = _caller(spec, in_threads)
    return lambda item: as_result(call(item))


def load_list_reward(spec: RewardSpec, scorer: ScorerName, *, in_threads: bool = False) -> RewardListFn:
    """As `load_reward`, for `reward.by_prompt`: a user's function gets all answers to a prompt at once.

    Its signature is `(items)`, or that of verl's batches, `(data_sources, solution_strs, ground_truths, extra_infos)`.
    All answers fail unless the function returns a list, tuple, or array or tensor of one dimension, with one value for
    each answer. If `as_result` refuses a value, only the answer of this value fails.
    A built-in reward scores the answers one by one.
    """
    spec = resolve_spec(spec)
    if isinstance(spec, RewardsBySet):
        _check_folders(spec, in_threads)
        rewards = {name: load_list_reward(name, scorer, in_threads=in_threads) for name in spec.names}
        return lambda items: rewards[spec.of(items[0].data_source)](items)
    if is_built_in(spec):
        reward = load_reward(spec, scorer)
        return lambda items: [reward(item) for item in items]
    _check_scorer(spec, scorer)
    call = _list_caller(spec, in_threads)
    return lambda items: as_results(call(items), len(items))


def truth_check(name: str) -> CheckTruth:
    """The function that checks ground truths for reward `name`: the built-in reward's, or that of the user's file
    (`load_check`). If the file has none, every truth is good.

    Raises ConfigError as `resolve_spec` and `load_check` do.
    """
    if is_built_in(name):
        return BUILT_IN[name].check_truth
    return load_check(_resolve("reward.function", name)) or (lambda truth, extra_info, truth_size: None)


def check_truth(
    name: str, truth: str, extra_info: Mapping[str, Any], truth_size: tuple[int, int] | None = None
) -> str | None:
    """What is wrong with the ground truth of one row for reward `name`, or None. For many rows: `truth_check`.

    `truth_size` (width, height): see `RewardInput`; boxes outside it are reported.
    """
    return truth_check(name)(truth, extra_info, truth_size)


def _check_folders(spec: RewardsBySet, in_threads: bool) -> None:
    if in_threads and len(folders := users_folders(spec.names)) > 1:
        raise ConfigError(f"reward.concurrency: threads share the modules of one folder; got {', '.join(folders)}")


def _check_scorer(spec: str, scorer: ScorerName) -> None:
    """Raises ConfigError unless `scorer` is "strict": the score of a user's function has no second formula."""
    if scorer != "strict":
        built_in = built_in_names(" and ")
        raise ConfigError(f"reward.scorer: only {built_in} have two scorers; got {scorer} with {spec}; give strict")


def _caller(spec: str, in_threads: bool) -> Callable[[RewardInput], Any]:
    """The function of a user's file as a function of one RewardInput."""
    function = load("reward.function", spec, _SIGNATURES, in_threads=in_threads)
    parameters = function.signature.parameters
    if "solution_str" not in parameters or "ground_truth" not in parameters:
        function.check_call(None)
        return function.call
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [name for name in _VERL_NAMES if open_ended or name in parameters]
    function.check_call(**dict.fromkeys(names))

    def call(item: RewardInput) -> Any:
        values = (item.data_source, item.response, item.truth, dict(item.extra_info))
        given = dict(zip(_VERL_NAMES, values, strict=True))
        return function.call(**{name: given[name] for name in names})

    return call


def _list_caller(spec: str, in_threads: bool) -> Callable[[Sequence[RewardInput]], Any]:
    """The function of a user's file as a function of all answers to a prompt."""
    function = load("reward.function", spec, _LIST_SIGNATURES, in_threads=in_threads)
    parameters = function.signature.parameters
    if "solution_strs" not in parameters or "ground_truths" not in parameters:
        function.check_call(None)
        return lambda items: function.call(list(items))
    function.check_call(**dict.fromkeys(_VERL_LISTS))

    def call(items: Sequence[RewardInput]) -> Any:
        rows = ((item.data_source, item.response, item.truth, dict(item.extra_info)) for item in items)
        return function.call(**dict(zip(_VERL_LISTS, map(list, zip(*rows, strict=True)), strict=True)))

    return call
