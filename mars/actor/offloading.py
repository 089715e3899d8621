"""Moves the trainer's tensors between device and host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from mars.actor.optimizer import Optimizer
from mars.actor.sharding import free_gathered
from mars.offload import HostCopies


class Offloading:
    """Moves the trainer's tensors to host memory and back.

    policy: sharded. reference: the reference model; None if there is none, or if it needs no memory of its own.
    on_cpu: whether parameters and optimizer states are always in CPU memory (`actor.offload=cpu`); then only buffers
    are moved.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module | None, optimizer: Optimizer, on_cpu: bool) -> None:
        self._policy, self._reference, self._optimizer, self._on_cpu = policy, reference, optimizer, on_cpu
        self._copies = HostCopies()

    def offload(self) -> None:
        self._copies.take(self._tensors())

    def onload(self) -> None:
        self._copies.bring_back()

    def need_all(self) -> None:
        """Raises RuntimeError between `offload` and `onload`."""
        if self._copies.are_away:
            raise RuntimeError("the trainer is in host memory; call onload first")

    def readable(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """state: tensors of the trainer by name. A tensor that was moved to host memory is replaced by its copy
        there."""
        return {name: self._copies.copy_of(value) for name, value in state.items()}

    def _tensors(self) -> Iterator[Tensor]:
        if not self._on_cpu:
            yield from self._optimizer.moments()
        yield from self._of_model(self._policy)
        if self._reference is not None:
            yield from self._of_model(self._reference)

    def _of_model(self, model: nn.Module) -> Iterator[Tensor]:
        """The buffers and, unless `on_cpu`, the parameters' shards. Frees whole parameters gathered for a forward."""
        free_gathered(model)
        if not self._on_cpu:
            yield from model.parameters()
        yield from model.buffers()
