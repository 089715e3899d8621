"""AdamW with linear warm-up and gradient clipping. A step with a gradient that is not finite is skipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mars.config.actor_sections import OptimizerConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments of each parameter: running means of the gradient and of its square."""


@dataclass(frozen=True)
class StepResult:
    """grad_norm: before clipping; NaN after `skip`. applied: False if no parameter was changed, because the gradient
    was not finite or `skip` was called."""

    grad_norm: float
    learning_rate: float
    applied: bool


class Optimizer:
    """AdamW. Weight decay applies to all parameters, norms and embeddings included, as in other GRPO implementations.

    parameters: by name; those that need no gradient are not trained.
    total_steps: step at which the learning rate reaches 0, in a straight line after the warm-up; None: it stays
    constant.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: OptimizerConfig, total_steps: int | None
    ) -> None:
        self._named = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._parameters = list(self._named.values())
        self._settings = settings
        self._total_steps = total_steps
        self._num_steps = 0
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            weight_decay=settings.weight_decay,
            foreach=True,
        )

    def scale(self, factor: float) -> None:
        """Multiply the gradients by `factor`."""
        for parameter in self._parameters if factor != 1.0 else ():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def step(self) -> StepResult:
        """Clip and apply the gradients, then clear them. If one is not finite, clear them without applying any."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        grad_norm = float(_full(norm))
        learning_rate = self._learning_rate()
        applied = math.isfinite(grad_norm)
        if applied:
            for group in self._adamw.param_groups:
                group["lr"] = learning_rate
            self._adamw.step()
            self._num_steps += 1
        self.clear()
        return StepResult(grad_norm, learning_rate, applied)

    def skip(self) -> StepResult:
        """Clear the gradients. Weights and learning-rate schedule do not change."""
        self.clear()
        return StepResult(float("nan"), self._learning_rate(), applied=False)

    def clear(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    @property
    def num_steps(self) -> int:
        """Number of steps applied in the whole run."""
        return self._num_steps

    def moments(self) -> list[Tensor]:
        """AdamW's moments of all parameters that have taken a step."""
        return [state[key] for state in self._adamw.state.values() for key in _MOMENTS]

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, for a checkpoint. AdamW's moments are float32, sharded like the weights, and not copied.

        "steps": int64 [1 + parameters]: the number of steps applied, then the number of steps of each parameter. They
        differ, because a parameter takes no step without a gradient. A parameter that has taken no step has no moments.
        """
        counts = [int(self._adamw.state[p]["step"]) if p in self._adamw.state else 0 for p in self._parameters]
        found = {"steps": torch.tensor([self._num_steps, *counts])}
        for (name, parameter), count in zip(self._named.items(), counts, strict=True):
            if count:
                state = self._adamw.state[parameter]
                found |= {f"{key}.{name}": state[key] for key in _MOMENTS}
        return found

    def prepare_load(self, steps: Tensor) -> None:
        """Take over the counts of `tensors()["steps"]` and allocate AdamW's moments, which the caller then fills.

        Raises ValueError if the state has another number of parameters.
        """
        total, *counts = steps.tolist()
        if len(counts) != len(self._parameters):
            raise ValueError(f"the optimizer has {len(self._parameters)} parameters, the checkpoint {len(counts)}")
        self._num_steps = total
        for parameter, count in zip(self._parameters, counts, strict=True):
            if count:
                moments = {key: torch.zeros_like(parameter) for key in _MOMENTS}
                self._adamw.state[parameter] = {"step": torch.tensor(float(count)), **moments}

    def _learning_rate(self) -> float:
        factor = rate_factor(self._num_steps, self._settings.warmup_steps, self._total_steps)
        return self._settings.learning_rate * factor


def rate_factor(step: int, warmup_steps: int, total_steps: int | None) -> float:
    """Share of the learning rate at optimizer step `step` (0 is the first).

    Example: warmup_steps 3 gives 0.25, 0.5, 0.75, 1, 1, ...; with total_steps 5 the last two are 1 and 0.5.
    """
    rising = (step + 1) / (warmup_steps + 1)
    falling = 1.0 if total_steps is None else (total_steps - step) / max(total_steps - warmup_steps, 1)
    return max(min(1.0, rising, falling), 0.0)


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
