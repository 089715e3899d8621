"""What a send consists of: names and shapes of the tensors in each bucket, and their dtype."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mars.weights.store import MemberStore
from mars.weights.transfer import Bucket

Shapes = Mapping[str, Sequence[int]]
"""Name -> shape of the tensors of one bucket."""


@dataclass(frozen=True)
class Plan:
    dtype: torch.dtype
    buckets: Sequence[Shapes]


def announce(store: MemberStore, what: str, version: int, buckets: Sequence[Bucket]) -> None:
    """Called by a sender: write the plan of this send under the name `what`."""
    plan = {
        "version": version,
        "dtype": str(buckets[0].dtype).removeprefix("torch."),
        "buckets": [dict(bucket.shapes) for bucket in buckets],
    }
    store.set(what, json.dumps(plan))


def announced(store: MemberStore, what: str) -> Plan:
    """Called by an engine: wait for the plan. Raises TransferError if it has another version than the engine
    expects."""
    plan = json.loads(store.get(what))
    wanted = store.meeting.version
    if plan["version"] != wanted:
        raise store.failed(f"the trainer sends version {plan['version']}, and the engine waits for {wanted}")
    return Plan(getattr(torch, plan["dtype"]), plan["buckets"])


def num_values(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def join(gathered: Iterable[Sequence[Tensor]], out: Tensor) -> None:
    """Write the values of all tensors to `out`, in order. gathered: the pieces of each tensor, as `Gather` returns
    them."""
    torch.cat([piece.reshape(-1) for pieces in gathered for piece in pieces], out=out)


def tensors(values: Tensor, shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor in `values`, which `join` has written. The tensors share its memory."""
    parts = values.split([math.prod(shape) for shape in shapes.values()])
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        yield name, part.view(tuple(shape))
