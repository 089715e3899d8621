"""Which rows of a parameter a rank holds."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def local_rows(parameter: Tensor) -> tuple[int, int]:
    """The rows [start, stop) of the whole parameter that this rank holds: all of them, if it is not sharded."""
    if not isinstance(parameter, DTensor):
        return 0, parameter.shape[0]
    (axis,) = (i for i, placement in enumerate(parameter.placements) if isinstance(placement, Shard))
    return rows_of(parameter.shape[0], parameter.device_mesh.get_local_rank(axis), parameter.device_mesh.size(axis))


def rows_of(num_rows: int, place: int, places: int) -> tuple[int, int]:
    """The rows [start, stop) at one of `places` places: FSDP2 splits as torch.chunk does, so the last may hold fewer.

    Example: 5 rows over 4 places are (0, 2), (2, 4), (4, 5), (5, 5).
    """
    most = -(-num_rows // places)
    return min(place * most, num_rows), min((place + 1) * most, num_rows)
