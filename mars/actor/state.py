"""The policy's weights as one dictionary, and as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from mars.actor.model import ModelSettings, PolicyModel


def full_state(policy: PolicyModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights on the CPU under their Hugging Face names, tied ones included; a collective call.

    Complete on rank 0, empty on the others. Tensors may share memory with the model's on a single CPU rank.
    """
    state = get_model_state_dict(policy, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix("backbone."): value.to(dtype) for name, value in state.items()}


def save_policy(policy: PolicyModel, settings: ModelSettings, path: str, is_writer: bool) -> None:
    """Write weights, configuration, tokenizer and processor; a collective call."""
    state = full_state(policy, getattr(torch, settings.dtype))
    if not is_writer:
        return
    from transformers import AutoProcessor

    Path(path).mkdir(parents=True, exist_ok=True)
    policy.backbone.config.dtype = settings.dtype  # so that the folder loads in the type it is written in
    policy.backbone.save_pretrained(path, state_dict=state)
    processor = AutoProcessor.from_pretrained(settings.path, trust_remote_code=settings.trust_remote_code)
    processor.save_pretrained(path)
