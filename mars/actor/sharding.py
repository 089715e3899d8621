"""How parameters are divided over ranks: the mesh of ranks, and the rows of a parameter that a rank holds."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard


def mesh_of_ranks(device: str, num_ranks: int, fsdp_size: int | None) -> DeviceMesh:
    """FSDP2's mesh: one axis over all ranks; or two, [copies, ranks of a copy], if only `fsdp_size` ranks share a copy
    of the parameters.

    The ranks of a copy are consecutive. So a copy on as many ranks as a node has GPUs is on one node. A collective
    call of all ranks.
    """
    if fsdp_size is None or fsdp_size == num_ranks:
        return init_device_mesh(device, (num_ranks,))
    return init_device_mesh(device, (num_ranks // fsdp_size, fsdp_size), mesh_dim_names=("replicate", "shard"))


def shard_axis(mesh: DeviceMesh) -> int:
    """The mesh's axis over which parameters are sharded."""
    return mesh.ndim - 1


def num_copies(mesh: DeviceMesh) -> int:
    """How many copies of the parameters there are."""
    return 1 if mesh.ndim == 1 else mesh.size(0)


def is_in_first_copy(mesh: DeviceMesh) -> bool:
    return mesh.ndim == 1 or mesh.get_local_rank(0) == 0


def local_rows(parameter: Tensor) -> tuple[int, int]:
    """The rows [start, stop) of the whole parameter that this rank holds: all of them, if it is not sharded."""
    if not isinstance(parameter, DTensor):
        return 0, parameter.shape[0]
    assert isinstance(parameter.placements[-1], Shard)
    return rows_of(
        parameter.shape[0],
        parameter.device_mesh.get_local_rank(shard_axis(parameter.device_mesh)),
        parameter.device_mesh.size(shard_axis(parameter.device_mesh)),
    )


def local_part(value: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: the whole tensor, if it is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def free_gathered(model: nn.Module) -> None:
    """Free the whole parameters that FSDP gathered for a forward, so that each parameter is a shard again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def rows_of(num_rows: int, place: int, places: int) -> tuple[int, int]:
    """The rows [start, stop) of shard number `place` out of `places`.

    FSDP2 splits rows as torch.chunk does, so the last shards may have fewer rows.

    Example: 5 rows over 4 places are (0, 2), (2, 4), (4, 5), (5, 5).
    """
    most = -(-num_rows // places)
    return min(place * most, num_rows), min((place + 1) * most, num_rows)
