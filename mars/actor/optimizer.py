"""AdamW with linear warm-up, and the guarded step: clip, check, apply or skip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class OptimizerSettings:
    """warmup_steps: the rate rises linearly over so many steps and then stays. clip_norm: of the global gradient."""

    learning_rate: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    clip_norm: float


@dataclass(frozen=True)
class StepResult:
    """grad_norm before clipping; applied: False where the gradient was not finite and nothing was changed."""

    grad_norm: float
    learning_rate: float
    applied: bool


class Optimizer:
    """Norms, biases and embeddings are decayed like all else, as in the reference implementations of GRPO."""

    def __init__(self, parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._settings = settings
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        warmup = settings.warmup_steps
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._adamw, lambda step: min(1.0, (step + 1) / (warmup + 1))
        )

    def step(self) -> StepResult:
        """Apply the gradients that are there, or none of them if any is not finite; then clear them."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        grad_norm = float(_full(norm))
        learning_rate = self._schedule.get_last_lr()[0]
        applied = torch.isfinite(torch.tensor(grad_norm)).item()
        if applied:
            self._adamw.step()
            self._schedule.step()
        self._adamw.zero_grad(set_to_none=True)
        return StepResult(grad_norm, learning_rate, applied)

    def skip(self) -> StepResult:
        """Drop the gradients; the weights and the schedule stay."""
        self._adamw.zero_grad(set_to_none=True)
        return StepResult(float("nan"), self._schedule.get_last_lr()[0], applied=False)


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
