"""Build the policy that a rank trains: load it, freeze parts of it, add LoRA adapters, shard it."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh

from mars.actor.lora import add_adapters
from mars.actor.model import Packing, PolicyModel, ScoringSettings, freeze, load_policy, shard
from mars.config.actor_sections import PolicyTrainingConfig
from mars.config.schema import ModelConfig


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
    policy = load_policy(model, scoring, packing, training.gradient_checkpointing)
    freeze(policy, training.freeze)
    if training.lora.rank:
        add_adapters(policy, training.lora, seed)
    shard(policy, mesh, model.dtype)
    return policy
