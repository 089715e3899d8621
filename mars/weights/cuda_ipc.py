"""`SharedBytes` on a GPU: a process opens the memory of another by CUDA's handles, as torch.multiprocessing does.

Not run on a GPU yet.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import torch
from torch import Tensor


class CudaIpcMemory:
    """Both processes must have the same GPU as their current device."""

    def new(self, num_bytes: int) -> tuple[Tensor, Any]:
        torch.cuda.ipc_collect()  # memory of earlier sends, which the engines have closed since
        values = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
        # What torch.multiprocessing.reductions.reduce_tensor calls, but without the device's number, because the other
        # process may have another number for the same GPU.
        _, *handle = values.untyped_storage()._share_cuda_()
        return values, [_to_text(part) for part in handle]

    def open(self, handle: Any) -> Tensor:
        parts = [_from_text(part) for part in handle]
        storage = torch.UntypedStorage._new_shared_cuda(torch.cuda.current_device(), *parts)
        return torch.empty(0, dtype=torch.uint8, device="cuda").set_(storage)

    def settle(self) -> None:
        torch.cuda.current_stream().synchronize()


def _to_text(part: Any) -> Any:
    """Bytes as text, because JSON has no bytes."""
    return {"bytes": b64encode(part).decode()} if isinstance(part, bytes) else part


def _from_text(part: Any) -> Any:
    return b64decode(part["bytes"]) if isinstance(part, dict) else part
