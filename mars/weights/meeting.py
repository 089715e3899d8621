"""Where the processes of a send meet. The driver creates a `Meeting`, so this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meeting:
    """One send of the weights from ranks of the trainer to some engines.

    host, port: of the driver's store. group: the members keep what they have set up for a group (connections, memory)
    until they get a meeting of another group.
    senders: names of the ranks that send. engines: names of the receivers.
    send: number of this send in the store.
    """

    host: str
    port: int
    group: str
    senders: tuple[str, ...]
    engines: tuple[str, ...]
    send: int
    version: int
