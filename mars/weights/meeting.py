"""Where the processes of a broadcast meet. The driver creates a `Meeting`, so this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meeting:
    """One send of the weights from rank 0 to some engines.

    host, port: of the store of rank 0. group: name of the process group, which is kept for the next
    meeting if that has the same name.
    engines: names of the receivers; engine i is member 1 + i of the group. send: number of this send in the store.
    """

    host: str
    port: int
    group: str
    engines: tuple[str, ...]
    send: int
    version: int
