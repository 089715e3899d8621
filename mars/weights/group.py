"""A process group for rank 0 and the engines, separate from the groups that torch and vLLM have made."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mars.weights.store import LOOK_S, POLL_S, MemberStore

_CONNECT_S = 5.0  # gloo's deadline for connecting: it tries a few times, and after an abort goes on for this long
_NCCL_SLACK_S = 60.0


class SendGroup:
    """This process's place in the group of a send. Failures raise TransferError; the group cannot be used afterwards.

    place: 0 for rank 0, then the engines. size: number of members.
    """

    def __init__(self, store: MemberStore, place: int, size: int, device: torch.device) -> None:
        self.store, self._place, self._size, self._device = store, place, size, device
        self._group: Any = None
        self._running: tuple[Any, Tensor] | None = None

    def connect(self) -> None:
        """Wait for the other members and connect. Returns at once if the group is connected."""
        _free_ended()
        if self._group is not None:
            return
        # Connect to the store before this member says that it is there: the lookup of host names may take seconds,
        # longer than gloo waits.
        of_group = self.store.for_process_group()
        # gloo would wait until its own deadline for a member that has died, even if the driver knows of the death.
        self.store.set(f"joined/{self._place}")
        self.store.wait_for([f"joined/{i}" for i in range(self._size)])
        with self.store.named_errors():
            if self._device.type == "cuda":
                self._group = _nccl(of_group, self._place, self._size, self.store.seconds_left())
                self._connect_nccl()
            else:
                self._group = _gloo(of_group, self._place, self._size)

    def start(self, values: Tensor) -> None:
        """Start to broadcast rank 0's values to the engines. Call `wait` before the next `start`."""
        self.store.check()
        with self.store.named_errors():
            self._running = (self._broadcast(values), values)

    def wait(self) -> None:
        """Wait until the broadcast is over. Does nothing if none was started."""
        if self._running is None:
            return
        work, _ = self._running
        look, pause = time.monotonic() + LOOK_S, POLL_S / 32
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, POLL_S)
            if time.monotonic() > look:
                look = time.monotonic() + LOOK_S
                self.store.check()
        self._running = None
        with self.store.named_errors():
            work.wait()  # raises what went wrong

    def leave(self) -> None:
        """Leave the group. A send that is still in progress fails for all members.

        They are told so through the store, because gloo does not always notice a broken connection. gloo cannot end an
        operation before its deadline, and freeing the group would wait for the operation. So a gloo group with an
        operation in progress is kept, with the tensor that the operation may still write to (`_free_ended`).
        """
        self.store.leave()
        if self._group is not None and self._device.type == "cuda":
            self._group.abort()
        elif self._running is not None:
            _abandoned.append((self._group, *self._running))
        self._group = self._running = None
        _free_ended()

    def _broadcast(self, values: Tensor) -> Any:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        if self._device.type != "cuda":
            options.timeout = timedelta(seconds=self.store.seconds_left() + POLL_S)
        return self._group.broadcast([values], options)

    def _connect_nccl(self) -> None:
        """NCCL connects inside the first operation, which blocks until all are connected. So it runs in a thread.

        If the send is aborted, the thread is left behind. It ends when `leave` aborts the group.
        """
        errors: list[RuntimeError] = []

        def connect() -> None:
            torch.cuda.set_device(self._device)  # each thread has a current device of its own
            try:
                self._broadcast(torch.zeros(1, device=self._device)).wait()
                torch.cuda.current_stream().synchronize()
            except RuntimeError as error:
                errors.append(error)

        thread = Thread(target=connect, name="weights-connect", daemon=True)
        thread.start()
        while thread.is_alive():
            self.store.check()
            thread.join(POLL_S * 16)
        if errors:
            raise errors[0]


_abandoned: list[tuple[Any, Any, Tensor]] = []
"""(group, operation, tensor) of groups that were left while an operation was in progress."""


def _free_ended() -> None:
    """Free the abandoned groups whose operation has ended by now, and their tensors."""
    _abandoned[:] = [entry for entry in _abandoned if not entry[1].is_completed()]


def _gloo(store: dist.Store, place: int, size: int) -> Any:
    """The members connect inside the first operation ("lazy"). If they connected in this function, torch would hold the
    GIL, and no other Python code of the process could run meanwhile."""
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=_CONNECT_S)
    interfaces = os.environ.get("GLOO_SOCKET_IFNAME", "")
    options._devices = [
        dist.ProcessGroupGloo.create_device(interface=name, lazy_init=True) for name in interfaces.split(",") if name
    ] or [dist.ProcessGroupGloo.create_default_device(lazy_init=True)]
    options._threads = 2 * len(options._devices)
    return dist.ProcessGroupGloo(store, place, size, options)


def _nccl(store: dist.Store, place: int, size: int, timeout_s: float) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    # torch ends the process at this deadline, so it comes later than the deadline of the send.
    options._timeout = timedelta(seconds=timeout_s + _NCCL_SLACK_S)
    options.config.blocking = 0  # so that `abort` can end connecting
    return dist.ProcessGroupNCCL(store, place, size, options)
