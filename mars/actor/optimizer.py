"""AdamW with linear warm-up, and a step that clips the gradient and is skipped if it is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mars.config.schema import OptimizerConfig


@dataclass(frozen=True)
class StepResult:
    """grad_norm before clipping; applied: False where the gradient was not finite and nothing was changed."""

    grad_norm: float
    learning_rate: float
    applied: bool


class Optimizer:
    """AdamW. Weight decay applies to all parameters, norms and embeddings included, as in other GRPO implementations.

    total_steps: after the warm-up the learning rate falls linearly to 0 at this step; None: it stays constant.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: OptimizerConfig, total_steps: int | None) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._settings = settings
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._adamw, lambda step: rate_factor(step, settings.warmup_steps, total_steps)
        )

    def step(self) -> StepResult:
        """Clip and apply the gradients, or apply none if any is not finite; then clear them."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        grad_norm = float(_full(norm))
        learning_rate = self._schedule.get_last_lr()[0]
        applied = math.isfinite(grad_norm)
        if applied:
            self._adamw.step()
            self._schedule.step()
        self._adamw.zero_grad(set_to_none=True)
        return StepResult(grad_norm, learning_rate, applied)

    def skip(self) -> StepResult:
        """Clear the gradients; weights and learning-rate schedule stay as they are."""
        self._adamw.zero_grad(set_to_none=True)
        return StepResult(float("nan"), self._schedule.get_last_lr()[0], applied=False)


def rate_factor(step: int, warmup_steps: int, total_steps: int | None) -> float:
    """Share of the learning rate at optimizer step `step` (0 is the first).

    Example: warmup_steps 3 gives 0.25, 0.5, 0.75, 1, 1, ...; with total_steps 5 the last two are 1 and 0.5.
    """
    rising = (step + 1) / (warmup_steps + 1)
    falling = 1.0 if total_steps is None else (total_steps - step) / max(total_steps - warmup_steps, 1)
    return max(min(1.0, rising, falling), 0.0)


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
