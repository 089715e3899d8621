"""Names that mars used before. None of them is accepted: an error gives the current name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

KEYS: Mapping[str, str] = {
    "actor.beta1": "actor.betas ([beta1, beta2])",
    "actor.beta2": "actor.betas ([beta1, beta2])",
    "actor.clip_norm": "actor.max_grad_norm",
    "algorithm.reference_update": "algorithm.reference_every (null is none; without a reference_decay it copies)",
    "anchor.mono_samples_per_source": "anchor.samples_per_view",
    "anchor.pooled": "anchor.pooled_statistics",
    "rollout.block_size": "rollout.vllm.block_size",
    "rollout.enforce_eager": "rollout.vllm.enforce_eager",
    "rollout.gpu_memory_utilization": "rollout.vllm.gpu_memory_utilization",
    "rollout.kv_cache_memory_bytes": "rollout.vllm.kv_cache_memory_bytes",
    "rollout.schedule": "rollout.max_staleness (0 is synchronous; or the group: schedule=asynchronous)",
    "rollout.scripted.full_length": "rollout.engine (scripted_full_length is true)",
    "sft.beta1": "sft.betas ([beta1, beta2])",
    "sft.beta2": "sft.betas ([beta1, beta2])",
    "sft.clip_norm": "sft.max_grad_norm",
    "sft.device": "cluster.device",
    "sft.num_steps": "run.num_steps",
    "sft.num_threads": "cluster.threads_per_worker",
    "tracking.console": "tracking.to (a list: [console,wandb], or [wandb] without console)",
    "tracking.wandb": "tracking.to (a list: [console,wandb], or [console] without wandb; WANDB_MODE=online sends)",
    "tracking.wandb_project": "tracking.project",
}
"""Earlier key -> the current one, followed in brackets by how values differ."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "actor.packing": {"naive": "padded"},
    "anchor": {"leave_one_out": "all_but_one"},
    "anchor.kind": {"leave_one_out": "all_but_one"},
}
"""Key or group -> its earlier value -> the value it has now."""


def renamed_key(key: str, known: Collection[str]) -> str | None:
    """The entry of KEYS for an earlier `key`, which may lack its section ("clip_norm").

    known: the keys of the configuration. An entry counts only if its current key is one of them. Returns None if no
    entry fits, or if entries with different texts fit.
    """
    found = {new for old, new in KEYS.items() if old == key or old.endswith(f".{key}")}
    candidates = [new for new in found if new.partition(" ")[0] in known]
    return candidates[0] if len(candidates) == 1 else None


def renamed_value(key: str, value: Any) -> str | None:
    """The current name of a former value of a key or group; None if it is not a former value."""
    return VALUES.get(key, {}).get(value) if isinstance(value, str) else None
