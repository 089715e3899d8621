"""The policy's weights as one dictionary, and as a Hugging Face folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from mars.actor.lora import adapted_layers, merged
from mars.actor.model import PolicyModel
from mars.actor.model_files import carry_files
from mars.actor.sharding import is_in_first_copy, local_part, rows_of, shard_axis
from mars.config.schema import ModelConfig
from mars.errors import SetupError
from mars.output.bars import without_bars
from mars.output.files import give_usual_permissions
from mars.weights.transfer import Bucket

SAVE_BUCKET_BYTES = 256 * 2**20
"""Of weights that are gathered to be written, or to be compared with what was written."""

_Adapter = tuple[Tensor, Tensor, float]
"""lora_A, lora_B and scale of a layer."""


Readable = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Replaces each tensor that was moved to host memory by its copy there."""


def weight_buckets(
    policy: PolicyModel, dtype: torch.dtype, bucket_bytes: int, readable: Readable = dict
) -> list[Bucket]:
    """All weights in `dtype` under their Hugging Face names, tied names included, in buckets of about bucket_bytes.

    LoRA adapters are added to their weights bucket by bucket. Shards are gathered in buckets, because a collective call
    for each tensor would cost about a millisecond.
    """
    state = {name.removeprefix("backbone."): value.detach() for name, value in readable(policy.state_dict()).items()}
    adapters = {
        f"{name}.weight": (state.pop(f"{name}.lora_A"), state.pop(f"{name}.lora_B"), layer.scale)
        for name, layer in adapted_layers(policy).items()
    }
    buckets: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in state.items():
        num_bytes = value.numel() * dtype.itemsize
        if buckets[-1] and size + num_bytes > bucket_bytes:
            buckets.append({})
            size = 0
        buckets[-1][name] = value
        size += num_bytes
    return [
        Bucket({name: tuple(v.shape) for name, v in bucket.items()}, dtype, partial(_gathered, bucket, adapters, dtype))
        for bucket in buckets
    ]


def full_state(policy: PolicyModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights on the CPU, named as in `weight_buckets`. On rank 0; {} on the others. A collective call."""
    buckets = weight_buckets(policy, dtype, SAVE_BUCKET_BYTES)
    return {name: value.cpu() for bucket in buckets for name, value in bucket.full().items()}


def _gathered(
    bucket: Mapping[str, Tensor], adapters: Mapping[str, _Adapter], dtype: torch.dtype, on_all_ranks: bool = False
) -> dict[str, list[Tensor]]:
    """With the first three arguments bound by `partial`, this is the `Gather` of a bucket (mars/weights/transfer.py).

    adapters: name of the adapted weight -> its adapter.

    If there are several copies of the weights, only the ranks of the first copy gather, unless `on_all_ranks`. Each of
    these ranks copies its shards of the bucket into one new buffer. A rank that receives the bucket needs memory for
    the whole bucket besides.
    """
    mesh = next((value.device_mesh for value in bucket.values() if isinstance(value, DTensor)), None)
    if mesh is not None and not on_all_ranks and not is_in_first_copy(mesh):
        return {}
    if mesh is None or mesh.size(shard_axis(mesh)) == 1:
        place = None if mesh is None else mesh.device_type  # offloaded weights are copied there too
        return {name: [_local(value, adapters.get(name)).to(place, dtype)] for name, value in bucket.items()}
    ranks, group = mesh.size(shard_axis(mesh)), mesh.get_group(shard_axis(mesh))
    sizes = [[_shard_elements(value, rank, ranks) for value in bucket.values()] for rank in range(ranks)]
    # All ranks must give equally many values, so shorter ones get zeros at the end. NCCL gathers from GPU memory, so
    # offloaded shards are copied there.
    mine = torch.zeros(max(map(sum, sizes)), dtype=dtype, device=mesh.device_type)
    own_sizes = sizes[dist.get_rank(group)]
    for (name, value), out in zip(bucket.items(), mine[: sum(own_sizes)].split(own_sizes), strict=True):
        out.copy_(_local(value, adapters.get(name)).reshape(-1))
    whole = mine.new_empty(ranks * len(mine)) if on_all_ranks or dist.get_rank() == 0 else None
    parts = None if whole is None else list(whole.split(len(mine)))
    if on_all_ranks:
        # With a list of tensors as output, NCCL would need one more buffer of the size of `whole`.
        dist.all_gather_single(whole, mine, group=group)
    else:
        dist.gather(mine, parts, dst=0, group=group)
    if parts is None:
        return {}
    shards = [part[: sum(own)].split(own) for part, own in zip(parts, sizes, strict=True)]
    # A value that is not sharded is complete on every rank, so the first rank's is used.
    return {
        name: [shard[i] for shard in (shards if isinstance(value, DTensor) else shards[:1])]
        for i, (name, value) in enumerate(bucket.items())
    }


def _local(weight: Tensor, adapter: _Adapter | None) -> Tensor:
    """This rank's rows of a weight, with its adapter added."""
    whole = weight if adapter is None else _merged(weight, *adapter)
    return local_part(whole)


def _merged(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """As `merged`, but computed on the mesh's device: float64 is slower on the CPU, where offloaded weights are."""
    return merged(_on_mesh(weight), _on_mesh(lora_a), _on_mesh(lora_b), scale)


def _on_mesh(value: Tensor) -> Tensor:
    if not isinstance(value, DTensor):
        return value
    return DTensor(value.to_local().to(value.device_mesh.device_type), value._spec, requires_grad=False)


def _shard_elements(value: Tensor, rank: int, ranks: int) -> int:
    """Number of elements of a tensor on rank number `rank` of the `ranks` that together hold a copy of the weights."""
    if not isinstance(value, DTensor):
        return value.numel()
    start, stop = rows_of(value.shape[0], rank, ranks)
    return (stop - start) * (value.numel() // value.shape[0])


def save_policy(policy: PolicyModel, model: ModelConfig, path: str, is_writer: bool) -> None:
    """Write weights and config.json, then copy the other files of the model's folder. A collective call.

    Raises SetupError if a file cannot be written. If possible, the weights are saved even then. If not, a folder that
    was not there before is removed again, so that nobody takes it for a policy.
    """
    state = full_state(policy, getattr(torch, model.dtype))
    if not is_writer:
        return
    from transformers import GenerationConfig

    backbone, generation = policy.backbone, policy.backbone.generation_config
    is_new = not os.path.lexists(path)
    backbone.config.dtype = model.dtype  # config.json names the dtype that the weights are saved in
    # transformers refuses to write generation settings that it would not use.
    backbone.generation_config = GenerationConfig()
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with without_bars():
            backbone.save_pretrained(path, state_dict=dict(state))
        give_usual_permissions(*Path(path).glob("*.safetensors"))
    except Exception as error:
        try:
            file = _save_weights(state, Path(path), error)
        except SetupError:
            if is_new:
                shutil.rmtree(path, ignore_errors=True)
            raise
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
            f"{', '.join(map(str, failed))}; "
            f"copy what is missing from {model.path}"
        )


def _save_weights(state: Mapping[str, Tensor], folder: Path, reason: Exception) -> Path:
    """Write only the weights, after saving the policy failed for `reason`. Raises SetupError if this fails too."""
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    try:
        # Copies, because tied weights share memory, which the format does not allow.
        save_file({name: value.clone().contiguous() for name, value in state.items()}, file, {"format": "pt"})
        give_usual_permissions(file)
    except Exception as error:
        raise SetupError(
            f"{folder}: the policy cannot be saved: {reason}; saving only its weights failed too: {error}"
        ) from error
    return file
