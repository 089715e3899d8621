"""Build the policy that a rank trains: freeze parts, add LoRA adapters, shard, and read this rank's weights."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh

from mars.actor.lora import add_adapters, bit_sum
from mars.actor.model import PolicyModel, ScoringSettings, empty_policy, fill, freeze, shard
from mars.config.actor_sections import PolicyTrainingConfig
from mars.config.schema import ModelConfig
from mars.train_types import Packing


def trained_policy(
    model: ModelConfig,
    training: PolicyTrainingConfig,
    scoring: ScoringSettings,
    packing: Packing,
    mesh: DeviceMesh,
    seed: int,
) -> PolicyModel:
    """A collective call of all ranks. seed: of the adapters' first values.

    Raises SetupError if the model cannot be loaded.
    """
    policy = empty_policy(model, scoring, packing, training.gradient_checkpointing)
    freeze(policy, training.freeze)
    if training.lora.rank:
        add_adapters(policy, training.lora, seed)
    placement = shard(policy, mesh, model.dtype, training.offload)
    fill(policy, model, placement)
    if training.lora.rank:
        policy.base_sum = bit_sum(policy)
    return policy
