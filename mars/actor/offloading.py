"""What of the trainer is on the device, and what in host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from mars.actor.optimizer import Optimizer
from mars.offload import HostCopies


class Offloading:
    """Moves the trainer's tensors to host memory and back.

    policy: sharded. reference: the model of the KL term, None if it has no memory of its own. Gradients and activations
    live only inside an update. on_cpu: parameters and optimizer states are in CPU memory anyway (`actor.offload=cpu`),
    so only buffers are moved.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module | None, optimizer: Optimizer, on_cpu: bool) -> None:
        self._policy, self._reference, self._optimizer, self._on_cpu = policy, reference, optimizer, on_cpu
        self._weights, self._rest = HostCopies(), HostCopies()

    def offload(self, keep_weights: bool) -> None:
        self._rest.take(self._rest_of_tensors())
        if not keep_weights:
            self._weights.take(self._tensors(self._policy))

    def onload(self, weights_only: bool) -> None:
        self._weights.bring_back()
        if not weights_only:
            self._rest.bring_back()

    def need_weights(self) -> None:
        """Raises RuntimeError if the weights are in host memory."""
        if self._weights.are_away:
            raise RuntimeError("the trainer's weights are in host memory; call onload first")

    def need_all(self) -> None:
        """Raises RuntimeError if anything is in host memory."""
        self.need_weights()
        if self._rest.are_away:
            raise RuntimeError("the trainer's optimizer states are in host memory; call onload first")

    def readable(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """state: tensors of the trainer by name. Those in host memory are replaced by their copies there."""
        return {name: self._weights.copy_of(self._rest.copy_of(value)) for name, value in state.items()}

    def _rest_of_tensors(self) -> Iterator[Tensor]:
        if not self._on_cpu:
            yield from self._optimizer.moments()
        if self._reference is not None:
            yield from self._tensors(self._reference)

    def _tensors(self, model: nn.Module) -> Iterator[Tensor]:
        """Shards of the parameters, and the buffers. What FSDP has gathered for a forward is given back."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        if not self._on_cpu:
            yield from model.parameters()
        yield from model.buffers()
