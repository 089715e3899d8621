"""From overrides to a checked configuration: all problems in one message, before anything heavy is imported.

overrides -> Hydra composes the files -> interpolations -> types and ranges -> rules between keys
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, overload

import yaml
from omegaconf import DictConfig, OmegaConf

from mars.config.compose import Composition, compose_files, compose_saved, resolved_leaves
from mars.config.fields import check_fields
from mars.config.folders import shipped_folder
from mars.config.idle_settings import idle_settings
from mars.config.keys import leaves, sections_of
from mars.config.overrides import EXPERIMENT, meant, unknown_key
from mars.config.paths import PATH_KEYS, path_problems, with_homes
from mars.config.problem import Problem
from mars.config.ramp_section import ramp_problems
from mars.config.rules import Rule, broken_rules, rules_of_record
from mars.config.schema import SftConfig, TrainConfig
from mars.config.section import Root
from mars.config.weight_rules import unused_adapter_settings
from mars.errors import ConfigError

RootName = Literal["train", "sft"]
SCHEMAS: dict[RootName, type[Root]] = {"train": TrainConfig, "sft": SftConfig}


@overload
def load_config(root: Literal["train"], overrides: Sequence[str], config_dirs: Sequence[str]) -> TrainConfig: ...
@overload
def load_config(root: Literal["sft"], overrides: Sequence[str], config_dirs: Sequence[str]) -> SftConfig: ...
@overload
def load_config(root: RootName, overrides: Sequence[str], config_dirs: Sequence[str]) -> TrainConfig | SftConfig: ...
def load_config(root: RootName, overrides: Sequence[str], config_dirs: Sequence[str]) -> Root:
    """The configuration made by configs/<root>.yaml, the chosen groups and experiment, and the overrides.

    overrides: Hydra's, such as "experiment=quickstart" or "rollout.top_p=0.9"; they win over every file.
    config_dirs: further folders that hold groups and experiments, such as a recipe's.
    Raises ConfigError whose message has one line for each problem.
    """
    composition = compose_files(root, SCHEMAS[root], overrides, config_dirs)
    problems = list(composition.problems)
    config = None
    if composition.config is not None:
        config, found = _validate(composition, composition.config, SCHEMAS[root])
        problems += found
    if config is not None:
        problems += unused_adapter_settings(composition.given, config.dotted(), _shipped_adapters(root))
        problems += _idle(composition, config, problems)
    if config is None or problems:
        raise refusal(problems)
    return config


def _idle(composition: Composition, config: Root, reported: Sequence[Problem]) -> list[Problem]:
    """The settings that the command line sets without effect, except those that `reported` names already."""
    found = idle_settings(composition.given, config.dotted(), partial(shipped_values, type(config)))
    keys = {problem.key for problem in reported}
    return [problem for problem in found if problem.key not in keys]


@cache
def _shipped_adapters(root: RootName) -> Mapping[str, Any]:
    """Dotted key -> default of each setting of LoRA adapters, such as `actor.lora.rank`."""
    file, section = ("actor/fsdp.yaml", "actor") if root == "train" else ("sft.yaml", "sft")
    content = yaml.safe_load((shipped_folder() / file).read_text(encoding="utf-8"))
    adapters = content["lora"] if root == "train" else content[section]["lora"]
    return {f"{section}.lora.{name}": default for name, default in adapters.items()}


def shipped_values(schema: type[Root]) -> dict[str, Any]:
    """Dotted key -> default, for each of the schema's settings that has a default."""
    (root,) = (name for name, found in SCHEMAS.items() if found is schema)
    composition = compose_files(root, schema, [], [])
    assert composition.config is not None  # the shipped files
    return resolved_leaves(composition.config, composition.known.mappings)[0]


def experiment_sets(key: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> bool:
    """Whether an experiment among the overrides of a training job gives `key` another value than it has without."""
    without = [override for override in overrides if not override.lstrip("+").startswith(f"{EXPERIMENT}=")]
    if len(without) == len(overrides):
        return False
    schema = SCHEMAS["train"]
    configs = [compose_files("train", schema, given, config_dirs).config for given in (overrides, without)]
    values = [None if config is None else OmegaConf.select(config, key) for config in configs]
    return values[0] != values[1]


def load_saved_config(path: Path, overrides: Sequence[str]) -> TrainConfig | SftConfig:
    """The configuration in the config.yaml of a run or of a cold start, changed by `overrides` of keys.

    Checked as by `load_config`. Raises ConfigError.
    """
    root, content = read_saved(path)
    composition = compose_saved(root, SCHEMAS[root], content, overrides)
    problems = list(composition.problems)
    assert composition.config is not None  # the shipped files
    config, found = _validate(composition, composition.config, SCHEMAS[root], saved=True)
    problems += found
    if config is not None:
        problems += _idle(composition, config, problems)
    if not isinstance(config, TrainConfig | SftConfig) or problems:
        raise refusal(problems)
    return config


def read_saved(path: Path) -> tuple[RootName, dict[str, Any]]:
    """(kind, content) of the config.yaml of a run or of a cold start. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: the settings of the run cannot be read ({error}); give the run.dir of a run"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not the settings of a run; restore the file")
    return "sft" if "sft" in content else "train", content


def composed_yaml(root: RootName, overrides: Sequence[str], config_dirs: Sequence[str]) -> str:
    """The composed and resolved configuration as YAML, not validated; a key that is not set is shown as ???.

    Raises ConfigError where it cannot be composed or resolved.
    """
    composition = compose_files(root, SCHEMAS[root], overrides, config_dirs)
    if composition.config is None or composition.problems:
        raise refusal(composition.problems)
    unresolved = resolved_leaves(composition.config, composition.known.mappings)[1]
    if unresolved:
        raise refusal(unresolved)
    return OmegaConf.to_yaml(composition.config, resolve=True)


def _problems_of(schema: type[Root], rules: tuple[Rule, ...], values: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the values of a whole configuration."""
    return [*check_fields(schema, values, rules)[1], *broken_rules(rules, values)]


def refusal(problems: Sequence[Problem]) -> ConfigError:
    """All problems as one error, a line each."""
    return ConfigError("\n".join(dict.fromkeys(str(problem) for problem in problems)))


def _validate(
    composition: Composition, config: DictConfig, schema: type[Root], *, saved: bool = False
) -> tuple[Root | None, list[Problem]]:
    """The checked configuration or None, and the problems, without those that only follow from another problem.

    saved: whether `config` comes from a run. Its paths stay as they are; only paths in overrides are expanded and
        checked. Rules that spare records apply only to overrides.
    """
    fields = leaves(schema)
    values, problems = resolved_leaves(config, composition.known.mappings)
    typed = {key for key in PATH_KEYS if not saved or key in composition.given}
    values |= with_homes({key: values[key] for key in typed & values.keys()})
    problems += path_problems({key: values[key] for key in typed & values.keys()})
    strays = [unknown_key(key, value, composition.known) for key, value in values.items() if key not in fields]
    meant_otherwise = {key for stray in strays for key in (stray.key, *meant(stray.key, composition.known))}
    doubtful = {
        key
        for key in fields
        if composition.is_doubtful(key)
        or not meant_otherwise.isdisjoint((key, *sections_of(key)))
        or (composition.has_unknown_option and key not in values and key not in composition.given)
    }
    rules = rules_of_record(schema.RULES, composition.given) if saved else schema.RULES
    result, found = check_fields(schema, {key: value for key, value in values.items() if key in fields}, rules)
    reported = {problem.key for problem in problems}
    problems += [problem for problem in found if problem.key not in reported]
    if isinstance(result, TrainConfig):
        problems += ramp_problems(result.ramps, result.dotted(), partial(_problems_of, schema, rules))
    excluded = doubtful | {problem.key for problem in problems}
    problems += broken_rules(rules, {key: value for key, value in values.items() if key not in excluded})
    order = {key: position for position, key in enumerate(fields)}
    kept = [problem for problem in problems if problem.key not in doubtful]
    return result, strays + sorted(kept, key=lambda problem: order.get(problem.key, -1))
