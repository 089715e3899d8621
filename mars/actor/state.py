"""The policy's weights as one dictionary, and as a Hugging Face folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad

from mars.actor.lora import adapted_layers, merged
from mars.actor.model import PolicyModel
from mars.actor.model_files import carry_files
from mars.config.schema import ModelConfig
from mars.errors import SetupError

# 256 MB in float32: large enough that latency does not matter, and small compared with a model of several buckets.
_BUCKET_ELEMENTS = 64 * 2**20


def full_state(policy: PolicyModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights on the CPU under their Hugging Face names, tied ones included; a collective call if sharded.

    LoRA adapters are added to the weights that they belong to.

    Complete on rank 0, empty on the others. In a single CPU process the tensors may share memory with the model.
    Shards are gathered on rank 0 in a few large calls, because a call for each tensor costs about a millisecond.
    """
    state = {name.removeprefix("backbone."): value.detach() for name, value in policy.state_dict().items()}
    layers = adapted_layers(policy)
    adapters = {f"{name}.weight": (state.pop(f"{name}.lora_A"), state.pop(f"{name}.lora_B")) for name in layers}
    full: dict[str, Tensor] = {}
    bucket: dict[str, Tensor] = {}
    for name, value in state.items():
        bucket[name] = value
        if name in adapters:
            bucket[name] = merged(value, *adapters[name], layers[name.removesuffix(".weight")].scale)
        if sum(tensor.numel() for tensor in bucket.values()) >= _BUCKET_ELEMENTS:
            full |= _gathered(bucket, dtype)
            bucket = {}
    return full | _gathered(bucket, dtype)


def _gathered(bucket: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    local = [(v.to_local() if isinstance(v, DTensor) else v).to(dtype) for v in bucket.values()]
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1:
        return dict(zip(bucket, (value.cpu() for value in local), strict=True))
    sizes = [[_shard_elements(value, rank, ranks) for value in bucket.values()] for rank in range(ranks)]
    mine = torch.cat([value.reshape(-1) for value in local]) if local else torch.empty(0, dtype=dtype)
    mine = pad(mine, (0, max(map(sum, sizes)) - len(mine)))
    parts = [torch.empty_like(mine) for _ in range(ranks)] if dist.get_rank() == 0 else None
    dist.gather(mine, parts, dst=0)
    if parts is None:
        return {}
    shards = [part.cpu()[: sum(own)].split(own) for part, own in zip(parts, sizes, strict=True)]
    return {
        name: torch.cat([shard[i] for shard in shards])[: value.numel()].view(value.shape)
        for i, (name, value) in enumerate(bucket.items())
    }


def _shard_elements(value: Tensor, rank: int, ranks: int) -> int:
    """Elements of a tensor that a rank holds: FSDP2 splits rows as torch.chunk does, so the last ranks hold fewer."""
    if not isinstance(value, DTensor):
        return value.numel()
    rows = math.ceil(value.shape[0] / ranks)
    own = min(max(value.shape[0] - rank * rows, 0), rows)
    return own * (value.numel() // value.shape[0])


def save_policy(policy: PolicyModel, model: ModelConfig, path: str, is_writer: bool) -> None:
    """Write weights and config.json, then carry over the other files of the model's folder; a collective call.

    Raises SetupError if a file cannot be written. Even then the weights are saved, if that is possible.
    """
    state = full_state(policy, getattr(torch, model.dtype))
    if not is_writer:
        return
    from transformers import GenerationConfig

    backbone, generation = policy.backbone, policy.backbone.generation_config
    backbone.config.dtype = model.dtype  # config.json names the dtype that the weights are saved in
    # transformers refuses to write generation settings that it does not use; the model's own file is carried over.
    backbone.generation_config = GenerationConfig()
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        backbone.save_pretrained(path, state_dict=dict(state))
    except Exception as error:
        file = _save_weights(state, Path(path), error)
        raise SetupError(
            f"{path}: only the weights of the policy were saved, in {file}: {type(error).__name__}: {error}; "
            f"copy the other files of {model.path} into the same folder"
        ) from error
    finally:
        backbone.generation_config = generation
    # `carry_files` copies the model's own file, if it has one.
    (Path(path) / "generation_config.json").unlink(missing_ok=True)
    failed = carry_files(model.path, path)
    if failed:
        raise SetupError(
            f"{path}: has the weights and config.json of the policy, but these files could not be copied: "
            f"{', '.join(failed)}; "
            f"copy what is missing from {model.path}"
        )


def _save_weights(state: Mapping[str, Tensor], folder: Path, reason: Exception) -> Path:
    """Write only the weights, after saving the policy failed for `reason`. Raises SetupError if this fails too."""
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    try:
        # Copies, because tied weights share memory, which the format does not allow.
        save_file({name: value.clone().contiguous() for name, value in state.items()}, file, {"format": "pt"})
    except Exception as error:
        raise SetupError(
            f"{folder}: the policy cannot be saved: {reason}; saving only its weights failed too: {error}"
        ) from error
    return file
