"""What freezing is compared with: training everything, and throwing gradients away."""

from __future__ import annotations

from collections.abc import Collection

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.parts import part_of


def throw_away_gradients(trainer: FsdpTrainer, parts: Collection[str]) -> FsdpTrainer:
    """Let the trainer forget the gradients of these parts before each optimizer step."""
    step = trainer._optimizer.step

    def forgetful():
        for name, parameter in trainer._policy.backbone.named_parameters():
            if part_of(name, trainer._policy.family.parts) in parts:
                parameter.grad = None
        return step()

    trainer._optimizer.step = forgetful
    return trainer
