"""The memory of linear attention's kernel in torch, by counting the tensors that are alive: the dry run's formula."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

from mars.checks.memory import ModelShape, trainer_memory


class AliveBytes(TorchDispatchMode):
    """now, most: bytes of the tensors that the block made and that are alive, and the greatest number so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage) -> None:
        name, size = storage._cdata, storage.nbytes()
        self._known.add(name)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, name, size)

    def _drop(self, name, size) -> None:
        self._known.discard(name)
        self.now -= size


def estimated(num_layers, key, value, tokens):
    shape = ModelShape(1, 1, 1, 4, 1, 1, 1, 1, num_layers, (2, key, value))
    settings = {"num_trained": 0, "num_ranks": 1, "dtype": "bfloat16", "logprob_chunk_tokens": 1}
    return trainer_memory(
        shape, tokens_per_forward=tokens, gradient_checkpointing=False, with_reference=False, **settings
    )["linear attention"]


@pytest.mark.parametrize(("sequences", "tokens"), [(1, 512), (4, 450)], ids=["long", "padded to chunks"])
@pytest.mark.parametrize(("key", "value"), [(128, 128), (64, 128)])
def test_what_the_kernel_keeps_and_what_backward_needs(sequences, tokens, key, value):
    inputs = [torch.randn(sequences, tokens, 2, size).bfloat16().requires_grad_() for size in (key, key, value)]
    decay, beta = -torch.rand(sequences, tokens, 2), torch.rand(sequences, tokens, 2)
    with AliveBytes() as alive:
        attended, _ = torch_chunk_gated_delta_rule(
            *inputs, g=decay.requires_grad_(), beta=beta.requires_grad_(), use_qk_l2norm_in_kernel=True
        )
        kept = alive.now
        attended.float().sum().backward()
    counted = sequences * -(-tokens // 64) * 64
    one, two = (estimated(layers, key, value, counted) for layers in (1, 2))
    assert kept == pytest.approx(two - one, rel=0.2)
    assert alive.most == pytest.approx(one, rel=0.1)
