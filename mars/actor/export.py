"""Write a checkpoint's weights as a Hugging Face folder, in this process, on the CPU, without a process group."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import load
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from mars.actor.lora import adapted_layers, add_adapters, bit_sum
from mars.actor.model import PolicyModel, ScoringSettings, load_policy
from mars.actor.shards import check_base, model_state
from mars.actor.state import SAVE_BUCKET_BYTES, save_policy, weight_buckets
from mars.config.actor_sections import LoraConfig
from mars.config.schema import ModelConfig
from mars.errors import CheckpointError, SetupError
from mars.output.bars import without_bars
from mars.output.files import give_usual_permissions
from mars.output.text import shorten


def export_policy(shards: str, model: ModelConfig, lora: LoraConfig, folder: str) -> None:
    """Write what `PolicyTrainer.save` would have written at the checkpoint's step; adapters are added to the weights.

    shards: folder of the trainer's shards, from any number of ranks. model, lora: those of the run. The weights at
    model.path say which tensors the model has; with LoRA they are also the weights that the adapters are added to. The
    other files at model.path are copied. Needs memory for the weights in float32 plus one copy of them in model.dtype.
    Raises CheckpointError for another model's shards. Raises SetupError as `load_policy` and `save_policy` do, or if
    transformers loads other weights from `folder`.
    """
    plain = _plain(model)
    policy = _loaded(shards, plain, lora)
    save_policy(policy, plain, folder, is_writer=True)
    check_saved(policy, plain, folder)


def export_adapter(shards: str, model: ModelConfig, lora: LoraConfig, folder: str) -> None:
    """Write the adapters alone in peft's format: adapter_config.json and adapter_model.safetensors, in float32.

    Arguments and errors as for `export_policy`, except that a file that cannot be written raises OSError or
    safetensors' SafetensorError.
    """
    layers = adapted_layers(_loaded(shards, _plain(model), lora))
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.path,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rank_stabilized,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(layers),  # whole names, because the ends of some are those of layers without an adapter
    }
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    file = path / "adapter_model.safetensors"
    save_file(tensors, file, {"format": "pt"})
    give_usual_permissions(file)
    _compare(load_file(file), tensors.items(), folder)
    (path / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check_saved(policy: PolicyModel, model: ModelConfig, folder: str) -> None:
    """Raises SetupError unless transformers loads from `folder` exactly the policy's weights in model.dtype."""
    from transformers import AutoModelForImageTextToText

    dtype = getattr(torch, model.dtype)
    with without_bars():
        backbone = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, trust_remote_code=model.trust_remote_code, use_safetensors=True
        )
    buckets = weight_buckets(policy, dtype, SAVE_BUCKET_BYTES)
    wanted = ((name, value) for bucket in buckets for name, value in bucket.full().items())
    _compare(backbone.state_dict(), wanted, folder)


def _compare(found: Mapping[str, Tensor], wanted: Iterable[tuple[str, Tensor]], folder: str) -> None:
    differing = [name for name, value in wanted if name not in found or not _same_bits(found[name], value)]
    if differing:
        raise SetupError(
            f"{folder}: {len(differing)} weights are not as they were written: {shorten(', '.join(differing), 200)}; "
            "write to another disk"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether shape, dtype and all bits are equal. So NaN equals NaN, unlike with torch.equal."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _plain(model: ModelConfig) -> ModelConfig:
    """The same model with attention that needs no GPU. The kind of attention is not saved."""
    return model.model_copy(update={"attention": "sdpa"})


def _loaded(shards: str, model: ModelConfig, lora: LoraConfig) -> PolicyModel:
    policy = load_policy(model, ScoringSettings(1.0, (), 1), packing="padded", gradient_checkpointing=False)
    if lora.rank:
        add_adapters(policy, lora, seed=0)
        policy.base_sum = bit_sum(policy)
    state = model_state(policy)
    try:
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # `no_dist` disables it
        load(state, storage_reader=HuggingFaceStorageReader(shards), no_dist=True)
    except (CheckpointException, KeyError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{shards}: cannot be loaded into {model.path}: {type(error).__name__}: {reason[-1] if reason else ''}; "
            "the checkpoint must be of that model"
        ) from error
    check_base(policy, state, shards)
    return policy
