"""LoRA (Hu et al. 2021, arXiv 2106.09685): frozen weights W of linear layers, plus trained products s B A of low rank.

Shapes, initial values and scale s are those of peft. There is no dropout, because with dropout the trainer's log-probs
would belong to another distribution than the one that the engine samples from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear

from mars.actor.batch import ForwardBatch
from mars.actor.model import PolicyModel
from mars.actor.parts import adapter_layers
from mars.actor.sharding import local_part, num_copies
from mars.config.actor_sections import LoraConfig

_ADAPTER = ("lora_A", "lora_B")
_SUMMED = 2**24  # values that are added up at once


class LoraLinear(nn.Linear):
    """x W^T + b + s (x A^T) B^T. An nn.Linear is turned into a LoraLinear in place, so that W and b keep their names.

    lora_A: [rank, inputs]. lora_B: [outputs, rank], 0 at first. scale: s. with_adapter: False leaves out the product.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float
    with_adapter: bool

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        if not self.with_adapter:
            return output
        return output + self.scale * linear(linear(input, self.lora_A), self.lora_B)


def add_adapters(policy: PolicyModel, settings: LoraConfig, seed: int) -> None:
    """Give the chosen linear layers an adapter and freeze all other parameters. Call it before `shard`.

    The adapters' initial values depend only on `seed`. After the weights have been read, set `policy.base_sum` to
    `bit_sum(policy)`. Raises ConfigError as `adapter_layers` does.
    """
    backbone = policy.backbone
    layers = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    chosen = adapter_layers(layers, policy.family.parts, settings)
    policy.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in chosen:
        make_adapter(layers[name], settings, generator)


def make_adapter(layer: nn.Linear, settings: LoraConfig, generator: torch.Generator) -> None:
    """Add an adapter with A uniform in +-1 / sqrt(inputs) and B = 0."""
    rank, bound = settings.rank, 1 / math.sqrt(layer.in_features)
    layer.__class__ = LoraLinear
    assert isinstance(layer, LoraLinear)
    layer.lora_A = nn.Parameter(torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator))
    layer.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
    layer.scale = settings.alpha / (math.sqrt(rank) if settings.rank_stabilized else rank)
    layer.with_adapter = True


def adapted_layers(policy: PolicyModel) -> dict[str, LoraLinear]:
    """The layers with an adapter, by their names in the Hugging Face model; {} without adapters."""
    return {name: module for name, module in policy.backbone.named_modules() if isinstance(module, LoraLinear)}


def merged(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """W + s B A, computed in float64 and rounded to float32.

    A collective call if the weights are sharded.
    """
    if not isinstance(weight, DTensor):
        return (lora_b.double() @ lora_a.double()).mul_(scale).add_(weight).float()
    assert isinstance(lora_a, DTensor)
    assert isinstance(lora_b, DTensor)
    rows = merged(weight.to_local(), lora_a.full_tensor(), lora_b.to_local(), scale)
    return DTensor.from_local(
        rows, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )


class BaseModel:
    """The policy without its adapters: the model that the run started from."""

    def __init__(self, policy: PolicyModel) -> None:
        self._policy = policy

    def __call__(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """The output of the policy's forward without adapters."""
        with _without_adapters(self._policy):
            return self._policy(batch)


@contextmanager
def _without_adapters(policy: PolicyModel) -> Iterator[None]:
    layers = adapted_layers(policy).values()
    for layer in layers:
        layer.with_adapter = False
    try:
        yield
    finally:
        for layer in layers:
            layer.with_adapter = True


def bit_sum(policy: nn.Module) -> Tensor:
    """int64 [1]: a checksum of all parameters except those of the adapters.

    Bits are added up as integers, so the checksum is the same for any number of ranks.

    A collective call if the policy is sharded.
    """
    base = [value for name, value in policy.named_parameters() if name.rpartition(".")[2] not in _ADAPTER]
    sums = torch.tensor([_sum_of_bits(local_part(value)) for value in base])
    if base and isinstance(base[0], DTensor):
        dist.all_reduce(sums)
        sums //= num_copies(base[0].device_mesh)
    return torch.tensor([sum(number * one for number, one in enumerate(sums.tolist(), 1)) % 2**63])


def _sum_of_bits(values: Tensor) -> int:
    """Sums piece by piece, because torch makes an int64 copy of the values that it sums."""
    pieces = values.detach().reshape(-1).view(torch.int32).split(_SUMMED)
    return sum(int(piece.sum(dtype=torch.int64)) for piece in pieces)
