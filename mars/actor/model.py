"""The policy network: a Hugging Face model whose forward returns log-probs of chosen tokens, sharded with FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mars.actor.batch import ForwardBatch
from mars.actor.parts import check_freeze, part_of
from mars.actor.prefix_attention import register
from mars.actor.token_scores import token_scores
from mars.actor.vision_attention import use_segments
from mars.config.actor_sections import Part
from mars.config.schema import ModelConfig
from mars.errors import SetupError

Packing = Literal["shared_prefix", "padded"]


@dataclass(frozen=True)
class ScoringSettings:
    """How logits become log-probs: the distribution the engine samples from.

    temperature: divides the logits. blocked_ids: tokens that get probability 0. chunk_tokens: number of tokens whose
    logits are in memory at once.
    """

    temperature: float
    blocked_ids: tuple[int, ...]
    chunk_tokens: int


class PolicyModel(nn.Module):
    """Scores response tokens. In forward and backward the logits of only `chunk_tokens` tokens are in memory."""

    def __init__(self, backbone: nn.Module, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._scoring = scoring
        # Not a registered buffer, which would become part of the saved policy.
        self._blocked = torch.tensor(scoring.blocked_ids, dtype=torch.long)
        self.base_sum: Tensor | None = None  # of the weights below LoRA adapters (lora.py); None without adapters

    def forward(self, batch: ForwardBatch, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probs of `batch.targets`, and the entropies of their distributions in nats: float32 [T] each.

        entropy_gradient: whether the entropy has a gradient.
        """
        hidden = self._hidden_states(batch)[batch.token_rows, batch.token_columns]
        return token_scores(
            hidden,
            self.backbone.lm_head.weight,
            batch.targets,
            blocked=self._blocked.to(hidden.device),
            temperature=self._scoring.temperature,
            chunk_tokens=self._scoring.chunk_tokens,
            entropy_gradient=entropy_gradient,
        )

    def _hidden_states(self, batch: ForwardBatch) -> Tensor:
        features = None
        if batch.pixel_values is not None:
            features = self.backbone.model.get_image_features(
                batch.pixel_values, batch.image_grid_thw, return_dict=True
            )
            features = {"image": _repeat_features(features, batch.image_index)}
        # No mask is needed: padding is on the right, a causal model attends only to the left, and packs have a layout.
        layout = {} if batch.layout is None else {"shared_prefix": batch.layout}
        outputs = self.backbone.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            mm_encoder_outputs=features,
            use_cache=False,
            **layout,
        )
        return outputs.last_hidden_state


class PatchConvolution(nn.Conv3d):
    """A convolution over single patches as one matrix product, several times faster than `conv3d`."""

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
    """Load the model at `model.path` in float32 on the CPU.

    packing: how all batches that the model will get are laid out, "padded" or "shared_prefix".
    key: the setting that holds the path, for messages.
    """
    from transformers import AutoModelForImageTextToText

    attention: str | dict[str, str] = model.attention
    if packing == "shared_prefix":
        attention = {"text_config": register(), "vision_config": model.attention}
    try:
        backbone = AutoModelForImageTextToText.from_pretrained(
            model.path,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # a pickle could run code
        )
    except (OSError, ImportError, ValueError) as error:
        raise SetupError(f"{key}: the model cannot be loaded; got {model.path}: {error}") from error
    # The Qwen-VL processors cut images into patches, so this layer's kernel covers exactly one patch.
    embedding = getattr(getattr(backbone.model, "visual", None), "patch_embed", None)
    if isinstance(getattr(embedding, "proj", None), nn.Conv3d):
        embedding.proj.__class__ = PatchConvolution
        if model.attention == "sdpa":
            use_segments(backbone.model.visual)
    if gradient_checkpointing:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers lets the embeddings' outputs need a gradient, which only reentrant checkpointing needs. Backward
        # would go through a frozen vision tower.
        backbone.disable_input_require_grads()
    return PolicyModel(backbone, scoring).train()


def freeze(policy: PolicyModel, parts: Sequence[Part]) -> None:
    """Keep these parts of the policy as they are; call it before `shard` and before the optimizer is made.

    Their parameters need no gradient, so the optimizer has no state for them, and backward stops where only they are
    below. Tied weights belong to the language model. Raises ConfigError for a family whose parts are not known.
    """
    family = policy.backbone.config.model_type
    check_freeze(family, parts)
    for name, parameter in policy.named_parameters() if parts else ():
        parameter.requires_grad_(part_of(name, family) not in parts)


def shard(policy: PolicyModel, mesh: DeviceMesh, dtype: str) -> None:
    """Shard with FSDP2: each vision block and decoder layer is a unit; embeddings, norms and head are in the root."""
    precision = MixedPrecisionPolicy()
    if dtype == "bfloat16":
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in _units(policy.backbone):
        fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision)


def _units(backbone: nn.Module) -> Iterator[nn.Module]:
    names = set(backbone._no_split_modules)
    return (module for module in backbone.modules() if type(module).__name__ in names)


def _repeat_features(features, image_index: tuple[int, ...]):
    """Repeat the features of the distinct images for each place that shows them; also Qwen3-VL's deepstack features."""
    features.pooler_output = tuple(features.pooler_output[i] for i in image_index)
    if getattr(features, "deepstack_features", None) is not None:
        features.deepstack_features = [tuple(layer[i] for i in image_index) for layer in features.deepstack_features]
    return features
