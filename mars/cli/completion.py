"""What TAB offers besides commands and options: runs, experiments, choices of config groups, settings and values.

Each function takes the word typed so far and returns whole words that begin with it. If a function returns none, bash
offers files.

bash ends a word at "=": it splits "anchor=mo" into "anchor", "=" and "mo", and replaces only the last part. Directly
after the "=" it asks for words that begin with "=", but typer passes on an empty word instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from mars.cli.run_folders import MAX_DEPTH, run_dirs

_RUNS = Path("runs")
_SIGN = "="
_VALUE = "value"  # stands for a value that is not one of a few


@dataclass(frozen=True)
class _Offered:
    """An option that TAB offers, with the attributes that typer's class of each shell (bash, zsh ...) reads."""

    value: str
    type: str = "plain"
    help: str | None = None


class PassingOn(TyperCommand):
    """A command that passes its options on to mars.main or mars.sft. A shell can complete these options."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        from mars.config.command_line import OPTIONS

        return [
            _Offered(name, help=settings.get("help"))
            for name, settings in {**OPTIONS, "--help": {}}.items()
            if name.startswith(incomplete)
        ]


def complete_run(incomplete: str) -> list[str]:
    """Run directories in runs/, and those in the folder that is being typed."""
    found = list(run_dirs(_RUNS)) if _RUNS.is_dir() else []
    beside = Path(os.path.dirname(incomplete))
    if beside not in (Path(), _RUNS) and beside.is_dir():
        found += run_dirs(beside, depth=MAX_DEPTH - 1)
    return sorted({str(path) for path in found if str(path).startswith(incomplete)})


def complete_key(incomplete: str) -> list[str]:
    """Names of the settings of a training."""
    from mars.config.keys import leaves
    from mars.config.schema import TrainConfig

    return [key for key in leaves(TrainConfig) if key.startswith(incomplete)]


def complete_choice(context: typer.Context, incomplete: str) -> list[str]:
    """`group=choice` for each choice of each group, such as experiment=quickstart, and `key=value` of settings."""
    return choices(_words(context), incomplete, "sft" if context.info_name == "sft" else "train")


def complete_config(context: typer.Context, incomplete: str) -> list[str]:
    """Experiments, run directories, and what `choices` gives. Behind a "=": only what `choices` gives."""
    previous = _words(context)
    if previous[-1:] == [_SIGN]:
        return choices(previous, incomplete)
    experiments = [name for name in _groups("train", previous)["experiment"] if name.startswith(incomplete)]
    return [*experiments, *complete_run(incomplete), *choices(previous, incomplete)]


def choices(previous: Sequence[str], incomplete: str, root: str = "train") -> list[str]:
    """The words that complete `incomplete`: `group=choice` and `key=value`. root: "train" or "sft".

    After a "=" or an option that takes a value, only the values are offered, without the part before them.

    previous: the words before. Settings are offered once a letter is typed. If the values of a setting cannot be
    listed, two words are offered: `key=`, and `key=` followed by the literal text "value". With two offers, a shell
    completes up to the "=" and adds no space.
    """
    found, options = _groups(root, previous), _values_of_options()
    before = [word for word in previous[-2:] if word != _SIGN]
    if before and (previous[-1] == _SIGN or before[-1] in options):
        known = found | options
        offered = known[before[-1]] if before[-1] in known else _values(root, before[-1]).get(before[-1], [])
        return [value for value in offered if value.startswith(incomplete)]
    words = [f"{group}={choice}" for group, names in found.items() for choice in names]
    if incomplete and incomplete.partition(_SIGN)[0] not in found:
        for key, values in _values(root, incomplete.partition(_SIGN)[0]).items():
            words += [f"{key}={value}" for value in values or ("", _VALUE)]
    return [word for word in words if word.startswith(incomplete)]


def _values_of_options() -> dict[str, list[str]]:
    """Each option of mars.main and mars.sft that takes a value -> its choices, [] if it takes a folder."""
    from mars.config.command_line import OPTIONS

    return {name: list(of.get("choices", ())) for name, of in OPTIONS.items() if of.get("action") != "store_true"}


def _values(root: str, begin: str) -> dict[str, list[str]]:
    """Setting -> the values that it takes, [] if they cannot be listed. For settings that begin with `begin`."""
    from mars.config.keys import few_values, leaves
    from mars.config.schema import SftConfig, TrainConfig

    fields = leaves(SftConfig if root == "sft" else TrainConfig)
    return {key: few_values(field) for key, field in fields.items() if key.startswith(begin)}


def _groups(root: str, previous: Sequence[str]) -> dict[str, list[str]]:
    """Group -> its choices, including those in the folders of --config-dir."""
    from mars.config.folders import groups, shipped_folder

    return groups(root, [shipped_folder(), *_config_dirs(previous)])


def _config_dirs(words: Sequence[str]) -> Iterator[Path]:
    option = "--config-dir"
    whole = [word for word in words if word != _SIGN]  # bash also splits --config-dir=DIR
    for word, following in pairwise([*whole, ""]):
        if word == option and following:
            yield Path(following)
        elif word.startswith(option + _SIGN):
            yield Path(word.partition(_SIGN)[2])


def _words(context: typer.Context) -> list[str]:
    """The words already typed for parameters that take several values; last a "=", if bash asks for what follows it."""
    words = [str(word) for value in context.params.values() if isinstance(value, list | tuple) for word in value]
    return [*words, _SIGN] if _is_behind_sign() else words


def _is_behind_sign() -> bool:
    """Whether bash asks for what follows a "="."""
    place, words = os.environ.get("COMP_CWORD", ""), os.environ.get("COMP_WORDS", "").split("\n")
    return place.isdecimal() and int(place) < len(words) and words[int(place)] == _SIGN
