"""Where the processes of a send meet.

Does not import torch, so that mars/cluster/weights.py, which creates each `Meeting` in the driver, need not either.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meeting:
    """One send of the weights from ranks of the trainer to some engines.

    host, port: of the driver's store. group: members keep their connections for later sends with the same group.
    senders: names of the ranks that send. engines: names of the receivers.
    send: number of this send. version: of the weights.
    """

    host: str
    port: int
    group: str
    senders: tuple[str, ...]
    engines: tuple[str, ...]
    send: int
    version: int
