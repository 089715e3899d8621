"""The policy network: a Hugging Face model whose forward returns log-probs of chosen tokens, sharded with FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from mars.actor.batch import ForwardBatch, ProcessedPrompt
from mars.actor.encoded_images import encoded_images
from mars.actor.linear_attention import use_shared_prefix
from mars.actor.model_weights import read_weights
from mars.actor.parts import part_of
from mars.actor.prefix_attention import register
from mars.actor.token_scores import token_scores
from mars.actor.vision_attention import use_segments
from mars.config.actor_sections import Offload, Part
from mars.config.schema import ModelConfig
from mars.errors import SetupError
from mars.families.table import family_of
from mars.train_types import Packing


@dataclass(frozen=True)
class Placement:
    """Devices of the weights: "cpu" or "cuda". With offloading, parameters are on the CPU and buffers on the GPU."""

    parameters: str = "cpu"
    buffers: str = "cpu"


@dataclass(frozen=True)
class ScoringSettings:
    """How logits become log-probs, so that the distribution is that of the engine.

    temperature: divides the logits, unless a forward has temperatures of its own. blocked_ids: tokens that get
    probability 0. chunk_tokens: number of tokens whose logits are in memory at once.
    """

    temperature: float
    blocked_ids: tuple[int, ...]
    chunk_tokens: int


class PolicyModel(nn.Module):
    """Scores response tokens."""

    def __init__(self, backbone: nn.Module, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.family = family_of(backbone.config.model_type, "model.path")
        self._scoring = scoring
        # Not a registered buffer, which would become part of the saved policy.
        self._blocked = torch.tensor(scoring.blocked_ids, dtype=torch.long)
        self.base_sum: Tensor | None = None  # `bit_sum` of all weights but LoRA's; None without LoRA

    def forward(self, batch: ForwardBatch, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probs of `batch.targets`, and the entropies of their distributions in nats: float32 [T] each."""
        hidden = self._hidden_states(batch)[batch.token_rows, batch.token_columns]
        return token_scores(
            hidden,
            self.backbone.lm_head.weight,
            batch.targets,
            blocked=self._blocked.to(hidden.device),
            temperature=self._scoring.temperature if batch.temperatures is None else batch.temperatures,
            chunk_tokens=self._scoring.chunk_tokens,
            entropy_gradient=entropy_gradient,
        )

    def positions(self, prompt: ProcessedPrompt) -> Tensor:
        """The positions of a prompt's tokens: int64 [A, P]; A = 3 axes (time, height, width) for M-RoPE, else 1."""
        image_id = self.backbone.config.image_token_id
        return self.family.forward.positions(self.backbone.model, prompt.input_ids, image_id, prompt.image_grid_thw)

    def _hidden_states(self, batch: ForwardBatch) -> Tensor:
        features = None
        if batch.pixel_values is not None:
            assert batch.image_grid_thw is not None  # because there are images
            encode = self.family.forward.image_features
            features = encode(self.backbone.model, batch.pixel_values, batch.image_grid_thw, batch.image_index)
        # No mask is needed: padding is on the right, a causal model attends only to the left, and packs have a layout.
        layout = {} if batch.layout is None else {"shared_prefix": batch.layout}
        with encoded_images(self.backbone.model, batch.pixel_values, features) as images:
            outputs = self.backbone.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids if len(batch.position_ids) > 1 else batch.position_ids[0],
                use_cache=False,
                **images,
                **layout,
            )
        return outputs.last_hidden_state


class PatchConvolution(nn.Conv3d):
    """A convolution over single patches, computed as one matrix product: several times faster than `conv3d`."""

    def forward(self, patches: Tensor) -> Tensor:
        """patches [N, channels, frames, height, width], each as large as the kernel; returns [N, outputs, 1, 1, 1]."""
        projected = nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return projected[:, :, None, None, None]


def load_policy(
    model: ModelConfig,
    scoring: ScoringSettings,
    packing: Packing,
    gradient_checkpointing: bool,
    key: str = "model.path",
) -> PolicyModel:
    """The whole model at `model.path` in float32 on the CPU, in this process. For arguments and errors see
    `empty_policy` and `fill`."""
    policy = empty_policy(model, scoring, packing, gradient_checkpointing, key)
    fill(policy, model, Placement(), key)
    return policy


def empty_policy(
    model: ModelConfig,
    scoring: ScoringSettings,
    packing: Packing,
    gradient_checkpointing: bool,
    key: str = "model.path",
) -> PolicyModel:
    """The model at `model.path` in float32, with its weights on torch's meta device: they have neither memory nor
    values until `fill` reads them.

    packing: the layout of all batches that the model will get.
    key: the setting that holds the path, for messages.
    Raises SetupError if the model's configuration cannot be read.
    """
    attention: str | dict[str, str] = model.attention
    if packing == "shared_prefix":
        attention = {"text_config": register(), "vision_config": model.attention}
    backbone = _empty_backbone(model, attention, key)
    policy = PolicyModel(backbone, scoring)
    parts = policy.family.parts
    if parts.patch_embedding is not None:
        backbone.get_submodule(parts.patch_embedding).__class__ = PatchConvolution
    if parts.vision_segments and model.attention == "sdpa":
        for name in parts.vision:
            use_segments(backbone.get_submodule(name))
    if packing == "shared_prefix":
        for module in backbone.modules():
            if type(module).__name__ in parts.linear_attention:
                use_shared_prefix(module)
    if gradient_checkpointing:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers makes the embeddings' outputs require a gradient, which only reentrant checkpointing needs.
        # Backward would then go through a frozen vision tower.
        backbone.disable_input_require_grads()
    return policy.train()


def _empty_backbone(model: ModelConfig, attention: str | dict[str, str], key: str) -> Any:
    """Build the model on the meta device. Buffers that no file has, such as rotary frequencies, are computed on the
    CPU."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
        _refuse_quantized(config, f"{key}: {model.path}")
        with torch.device("meta"):
            backbone: Any = AutoModelForImageTextToText.from_config(
                config,
                dtype=torch.float32,
                attn_implementation=attention,
                trust_remote_code=model.trust_remote_code,
            )
    except SetupError:
        raise
    except Exception as error:  # whatever transformers raises for a wrong configuration, with its reason
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SetupError(f"{key}: the model cannot be loaded; got {model.path}: {reason}") from error
    _compute_buffers(backbone, f"{key}: {model.path}")
    return backbone


def _refuse_quantized(config: Any, where: str) -> None:
    for section in (config, config.get_text_config()):
        if getattr(section, "quantization_config", None) is not None:
            raise SetupError(
                f"{where}: quantization_config: quantized weights cannot be trained; "
                f"got {section.quantization_config!s:.80}; use the model that they were made from"
            )


def _compute_buffers(backbone: Any, where: str) -> None:
    """Compute the buffers that no file has. Raises SetupError for a tensor that the model's code sets only in
    `__init__`, because on the meta device this tensor got no values."""
    empty = {}
    for name, buffer in backbone.named_non_persistent_buffers():
        module, _, own = name.rpartition(".")
        empty[name] = torch.empty_like(buffer, device="cpu")
        setattr(backbone.get_submodule(module), own, empty[name])
    versions = {name: buffer._version for name, buffer in empty.items()}
    for value in backbone.state_dict(keep_vars=True).values():
        value._is_hf_initialized = True  # so that the next call leaves weights alone, as in from_pretrained
    backbone.initialize_weights()
    now = dict(backbone.named_buffers())
    unset = [name for name, buffer in empty.items() if now[name] is buffer and buffer._version == versions[name]]
    for path, module in backbone.named_modules():
        unset += [
            f"{path}.{own}".lstrip(".")
            for own, value in vars(module).items()
            if isinstance(value, Tensor) and value.is_meta
        ]
    if unset:
        raise SetupError(
            f"{where}: the model's code sets {', '.join(unset)} in __init__ alone; mars makes a model without memory "
            "first; set it in _init_weights, or make it a buffer that is saved with the weights"
        )


def fill(policy: PolicyModel, model: ModelConfig, placement: Placement, key: str = "model.path") -> None:
    """Fill a policy of `empty_policy` with the weights in `model`'s files. If sharded, read only this rank's rows.

    Raises SetupError if the files do not have exactly the weights of the model.
    """
    read_weights(policy.backbone, model.path, key, placement.parameters, placement.buffers)


def freeze(policy: PolicyModel, parts: Sequence[Part]) -> None:
    """Do not train these parts of the policy. Call it before `shard` and before the optimizer is made.

    Tied weights belong to the language model.
    """
    for name, parameter in policy.backbone.named_parameters():
        parameter.requires_grad_(part_of(name, policy.family.parts) not in parts)


def shard(policy: PolicyModel, mesh: DeviceMesh, dtype: str, offload: Offload) -> Placement:
    """Shard with FSDP2: each vision block and decoder layer is a unit; all else (embeddings, head …) is in the root.

    With dtype "bfloat16", FSDP2 gathers the parameters for a forward in bfloat16. Shards, gradients and their
    reduction over ranks are float32. Returns the devices on which the weights must be.
    """
    precision, place = MixedPrecisionPolicy(), OffloadPolicy()
    if dtype == "bfloat16":
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if offload == "cpu":  # copies from pinned memory run beside the GPU's work
        place = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    for module in (*_units(policy), policy):
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=place)
    return Placement("cpu" if offload == "cpu" else mesh.device_type, mesh.device_type)


def _units(policy: PolicyModel) -> Iterator[nn.Module]:
    names = policy.family.parts.layer_classes
    return (module for module in policy.backbone.modules() if type(module).__name__ in names)
