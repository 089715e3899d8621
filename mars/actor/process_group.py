"""The process group of the trainer's ranks."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mars.actor.trainer import Rendezvous
from mars.errors import SetupError

_LOOPBACK = "127.0.0.1"


def join_group(rendezvous: Rendezvous, device: str) -> bool:
    """Make the trainer's process group. Returns False if it exists, because an engine in this process has made it.

    Raises SetupError if the ranks do not find each other.
    """
    if dist.is_initialized():
        if dist.get_world_size() != rendezvous.world_size:
            raise RuntimeError(
                f"torch.distributed already has {dist.get_world_size()} ranks; want {rendezvous.world_size}"
            )
        return False
    timeout = timedelta(seconds=rendezvous.timeout_s)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            rank=rendezvous.rank,
            world_size=rendezvous.world_size,
            timeout=timeout,
            **_meeting_place(rendezvous, timeout),
        )
    except (dist.DistError, OSError) as error:
        raise SetupError(
            f"cluster: the trainer's ranks cannot meet at {rendezvous.init_method}: {error}; "
            "start again (the port may have been taken), or open the ports between the nodes"
        ) from error
    return True


def leave_group(*, owned: bool) -> None:
    """Destroy the process group. owned: what `join_group` returned; a group of the engine stays."""
    if owned and dist.is_initialized():
        dist.destroy_process_group()


def _meeting_place(rendezvous: Rendezvous, timeout: timedelta) -> dict[str, Any]:
    """The store or the address of the group. On one machine, the store of rank 0 listens only on the loopback
    interface.

    The store that torch makes from an address listens on all interfaces, whatever the address is.
    """
    if rendezvous.init_method is None:
        return {"store": dist.HashStore()}
    host, _, port = rendezvous.init_method.removeprefix("tcp://").rpartition(":")
    if host != _LOOPBACK:
        return {"init_method": rendezvous.init_method}
    is_first = rendezvous.rank == 0
    listening = {"master_listen_fd": socket.create_server((host, int(port))).detach()} if is_first else {}
    return {
        "store": dist.TCPStore(
            host,
            int(port),
            rendezvous.world_size,
            is_master=is_first,
            timeout=timeout,
            wait_for_workers=False,
            **listening,
        )
    }
