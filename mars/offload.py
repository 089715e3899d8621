"""Free a device's memory: storages of tensors shrink to nothing, and grow again later.

`HostCopies` keeps the contents in host memory meanwhile; `free` loses them. Tensors, views and parameters stay the same
objects. So tied weights stay tied, the optimizer finds its parameters, and FSDP its flat shards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class HostCopies:
    """Moves storages to host memory and back.

    For a GPU the host memory is pinned. It is kept for the next time, because allocating it takes longer than copying.
    An interruption in the middle of a call loses nothing: `copy_of` finds every tensor, and the call can be repeated.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}
        # Storages whose content is in `_kept`, by their addresses.
        self._away: dict[int, torch.UntypedStorage] = {}

    @torch.no_grad()
    def take(self, tensors: Iterable[Tensor]) -> None:
        """Move these tensors to the host, whole storages at a time. Their values must not be used until `bring_back`.

        Raises RuntimeError for a storage that cannot be resized, such as a file mapped into memory.
        """
        storages = {key: s for key, s in storages_of(tensors).items() if s.nbytes()}
        self._kept = {key: kept for key, kept in self._kept.items() if key in storages or key in self._away}
        for key, storage in storages.items():
            kept = self._kept.get(key)
            if kept is None or kept.numel() != storage.nbytes():
                pinned = storage.device.type == "cuda"
                kept = self._kept[key] = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=pinned)
            kept.copy_(_bytes(storage), non_blocking=True)
        _synchronize(storages.values())
        for key, storage in storages.items():
            self._away[key] = storage
            storage.resize_(0)
        release_cache()

    @torch.no_grad()
    def bring_back(self) -> None:
        """Move everything back to where it was. Does nothing if nothing is on the host."""
        for key, storage in self._away.items():
            storage.resize_(self._kept[key].numel())
            _bytes(storage).copy_(self._kept[key], non_blocking=True)
        _synchronize(self._away.values())
        self._away.clear()

    @property
    def are_away(self) -> bool:
        return bool(self._away)

    def copy_of(self, tensor: Tensor) -> Tensor:
        """The tensor, or its copy in host memory if it was moved there. The next `take` overwrites the copy.

        The copy of a DTensor is a DTensor of the same mesh whose local part is on the CPU.
        """
        local = local_part(tensor)
        key = local.untyped_storage()._cdata
        if key not in self._away:
            return tensor
        copy = torch.empty(0, dtype=local.dtype).set_(
            self._kept[key].untyped_storage(), local.storage_offset(), local.shape, local.stride()
        )
        if isinstance(tensor, DTensor):
            return DTensor(copy, tensor._spec, requires_grad=False)
        return copy


Freed = list[tuple[torch.UntypedStorage, int]]
"""Storages without memory, and the bytes that each of them had."""


def free(tensors: Iterable[Tensor]) -> Freed:
    """Free the memory of these tensors and lose their contents."""
    freed = [(storage, storage.nbytes()) for storage in storages_of(tensors).values()]
    _synchronize(storage for storage, _ in freed)
    for storage, _ in freed:
        storage.resize_(0)
    release_cache()
    return freed


def restore(freed: Freed) -> None:
    """Give the storages memory again. Their contents are undefined."""
    for storage, size in freed:
        storage.resize_(size)


def storages_of(tensors: Iterable[Tensor]) -> dict[int, torch.UntypedStorage]:
    """The storages of these tensors, each once. Key: the address of the storage object, not of its memory."""
    storages = (local_part(tensor).untyped_storage() for tensor in tensors)
    return {storage._cdata: storage for storage in storages}


def local_part(tensor: Tensor) -> Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def release_cache() -> None:
    """Return torch's unused GPU memory to the GPU, for other processes and for vLLM's own allocator."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _synchronize(storages: Iterable[torch.UntypedStorage]) -> None:
    if any(storage.device.type == "cuda" for storage in storages):
        torch.cuda.synchronize()
