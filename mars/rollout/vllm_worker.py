"""The methods that mars adds to vLLM's workers.

vLLM loads this module in its worker processes, so it imports no other module of mars.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class WorkerExtension:
    """vLLM's `worker_extension_cls`: its methods are called on every worker through `collective_rpc`."""

    model_runner: Any

    def count_encoder_runs(self) -> None:
        """Start counting images that pass the vision encoder. `embed_multimodal` returns one array for each."""
        model = self.model_runner.model
        encode, self._encoder_runs = model.embed_multimodal, 0

        def counted(**images: Any) -> Any:
            features = encode(**images)
            self._encoder_runs += len(features)
            return features

        model.embed_multimodal = counted

    def encoder_runs(self) -> int:
        return self._encoder_runs

    @torch.no_grad()
    def keep_plain_tensors(self) -> None:
        """Keep tensors that a sleep would lose: tensors of the model that are neither parameters nor buffers.

        vLLM restores only buffers. Qwen3-VL, for example, adds zeros from such a tensor to every token of text.
        """
        # Most of these tensors are all zero, and some are large.
        tensors = plain_tensors(self.model_runner.model)
        self._kept = [tensor.cpu().clone() if tensor.any() else None for tensor in tensors]

    @torch.no_grad()
    def restore_plain_tensors(self) -> None:
        """Write the kept tensors back. Call it when the weights have memory again."""
        for tensor, kept in zip(plain_tensors(self.model_runner.model), self._kept, strict=True):
            if kept is None:
                tensor.zero_()
            else:
                tensor.copy_(kept)
        del self._kept


def plain_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Tensors in attributes of the modules, also in lists, tuples and dictionaries there, each storage once.

    Leaves out tensors that share the storage of a parameter or buffer, and the KV cache, which has no memory yet when
    `restore_plain_tensors` is called.
    """
    seen = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules", "kv_cache"):
                continue
            for tensor in _tensors(value):
                if tensor.untyped_storage()._cdata not in seen:
                    seen.add(tensor.untyped_storage()._cdata)
                    yield tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    match value:
        case Tensor():
            yield value
        case list() | tuple():
            for item in value:
                yield from _tensors(item)
        case dict():
            for item in value.values():
                yield from _tensors(item)
