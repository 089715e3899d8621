"""Settings that differ between the attempts of a run, and which of them may change when the run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mars.config.keys import is_in, leaves
from mars.config.load import shipped_values
from mars.config.ramp_section import WEIGHTS
from mars.config.section import Root, Section
from mars.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

# Where and for how long the run computes, and what it reports. The rows of train_files are compared separately, by
# their fingerprint (resume.py).
FREE = (
    "run.name", "run.dir", "run.num_steps", "run.num_epochs", "cluster", "tracking", "checkpoint",
    "evaluation", "data.train_files", "data.eval_files", "data.image_root", "data.decode_at_start",
    "data.transport", "data.image_cache_bytes",
    "data.max_bad_fraction", "data.bad_window",
    "rollout.num_workers", "rollout.weight_transfer", "rollout.weight_bucket_bytes",
    "rollout.tensor_parallel_size", "rollout.max_num_seqs", "rollout.logprob_diff_alarm", "rollout.vllm",
    "actor.num_workers", "actor.fsdp_size", "actor.offload", "actor.gradient_checkpointing",
    "reward.num_workers", "reward.timeout_s",
    "sft.num_workers", "sft.fsdp_size", "sft.offload", "sft.gradient_checkpointing", "sft.eval_every", "sft.log_every",
)  # fmt: skip
# They define the meaning of the saved position in the data, and the parameters that the saved optimizer has states for.
REFUSED = (
    "run.seed", "data.prompts_per_step", "data.shuffle", "data.weights", "actor.freeze", "actor.lora",
    "sft.batch_size", "sft.freeze", "sft.lora",
)  # fmt: skip

# Their values may name files and folders, which may have moved. A checkpoint does not have the contents of these.
PLACES = (
    "model.path", "algorithm.kl_reference", "data.template", "reward.function", "reward.functions", "recipe.sampler",
    "recipe.shaping", "recipe.advantage", "recipe.requests", "recipe.tokens",
)  # fmt: skip

# A changed ramp of `data.weights` is refused; a change of another ramp is warned of.
RAMPS = "ramps"

# A change is refused only from or to null. With any other value a checkpoint has the reference model's weights.
HAS_STATE = ("algorithm.reference_every",)


@dataclass(frozen=True)
class Changes:
    """ "key: before -> now" of each changed setting. free: those of `FREE`, which are only logged. refused: `accept`
    raises ConfigError. warned: all others, which are logged as warnings."""

    free: tuple[str, ...]
    warned: tuple[str, ...]
    refused: tuple[str, ...]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """before, now: dotted key -> value. A key that is only in `before` is unknown to this version of mars."""
    before, now = _plain(before), _plain(now)
    found: dict[str, list[str]] = {"free": [], "warned": [], "refused": []}
    for key in sorted({*before, *now} - {"run.resume"}):  # whether an attempt resumes is no setting of the run
        if before.get(key, _UNSET) != now.get(key, _UNSET):
            refused = is_in(key, *REFUSED) or (key in HAS_STATE and None in (before.get(key), now.get(key)))
            refused = refused or (key == RAMPS and _of_the_order(before) != _of_the_order(now))
            kind = "refused" if refused else "free" if is_in(key, *FREE) else "warned"
            found[kind].append(f"{key}: {before.get(key, _UNSET)} -> {now.get(key, _UNSET)}")
    return Changes(**{kind: tuple(lines) for kind, lines in found.items()})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with each `Section` in a list replaced by a mapping, as in config.yaml."""

    def plain(value: Any) -> Any:
        return value.model_dump() if isinstance(value, Section) else value

    return {key: [plain(one) for one in value] if isinstance(value, list) else value for key, value in values.items()}


def _of_the_order(values: Mapping[str, Any]) -> list[Any]:
    """The ramps that the order of the data depends on."""
    return [ramp for ramp in values.get(RAMPS) or [] if str(ramp["key"]).startswith(WEIGHTS)]


def read_settings(path: Path, schema: type[Root]) -> dict[str, Any]:
    """Dotted key -> value of a run's config.yaml. schema: of the job that resumes it. Raises CheckpointError.

    A setting that is missing, because the run's version of mars did not have it, gets its default.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: the settings of the run to be resumed cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the settings of the run to be resumed are missing; restore the file")
    return {**shipped_values(schema), **dict(_dotted(content, "", leaves(schema)))}


def _dotted(values: Mapping[str, Any], prefix: str, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            yield from _dotted(value, f"{key}.", known)
        else:
            yield key, value


def accept(found: Changes) -> None:
    """Log the changes. Raises ConfigError if one is refused."""
    if found.refused:
        raise ConfigError(
            "run.resume: what a checkpoint has depends on these settings, so they cannot change:\n"
            + "\n".join(f"  {line}" for line in found.refused)
            + "\nset them back, or start a new run in another run.dir (model.path: the policy of this one)"
        )
    for line in found.free:
        logger.info("resuming with another setting: %s", line)
    for line in found.warned:
        unless = ", unless it is the same in another place" if _may_have_moved(line) else ""
        logger.warning("resuming with another setting, which changes the training from here on%s: %s", unless, line)


def _may_have_moved(line: str) -> bool:
    """line: "key: before -> now"."""
    key, _, values = line.partition(": ")
    return is_in(key, *PLACES) and all("/" in value for value in values.split(" -> "))


class _Unset:
    def __str__(self) -> str:
        return "(not set)"


_UNSET = _Unset()
