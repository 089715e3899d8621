"""A process group of its own for rank 0 and the engines, beside those that torch and vLLM have made."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mars.errors import TransferError
from mars.weights.meeting import Meeting

_POLL_S = 0.001
_LOOK_S = 0.25  # between two looks whether the send was aborted
_CONNECT_S = 30.0  # for calls of the store, and for members, once all are there, to connect
_DRIVER_S = 5.0
_NCCL_SLACK_S = 60.0

# name -> shape of the tensors of one bucket
Shapes = Mapping[str, Sequence[int]]


def open_store(host: str) -> dist.TCPStore:
    """A store in this process on a free port. It listens on this address only; torch's own listens on all."""
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    return dist.TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())


def abort(meeting: Meeting, reason: str) -> None:
    """Tell all members that this send has failed. Does nothing if the store's process has died, as they see that."""
    with suppress(RuntimeError):  # torch's errors of networks and deadlines are such, too
        _client(meeting, _DRIVER_S).set(_key(meeting, "aborted"), reason)


class SendGroup:
    """This process's place in the group of a meeting. A failure is a TransferError; the group is of no use then.

    place: 0 for rank 0, then the engines. timeout_s: how long a send may take in all.
    """

    def __init__(self, meeting: Meeting, place: int, device: torch.device, timeout_s: float) -> None:
        self.name = meeting.group
        self._place, self._device, self._timeout_s = place, device, timeout_s
        self._store: Any = None
        self._group: Any = None
        self._unfinished: Any = None
        self._announced: str | None = None
        self.begin(meeting)

    def begin(self, meeting: Meeting) -> None:
        """Start the clock of a send."""
        self._meeting, self._is_over = meeting, False
        self._end = time.monotonic() + self._timeout_s

    def connect(self) -> None:
        """Wait for the other members. Does nothing in a group that is connected."""
        if self._group is not None:
            return
        size = 1 + len(self._meeting.engines)
        # A part of the deadline, so that this member fails in time even if the process of the store hangs.
        connect_s = min(_CONNECT_S, self._timeout_s / 2)
        try:
            self._store = _client(self._meeting, connect_s)
            # gloo would wait for a member that has died until its own deadline, whatever the driver knows.
            self._store.set(_key(self._meeting, f"joined/{self._place}"), "")
            self._wait_for([_key(self._meeting, f"joined/{i}") for i in range(size)])
            store = dist.PrefixStore(self.name, self._store)
            if self._device.type == "cuda":
                self._group = _nccl(store, self._place, size, self._timeout_s)
            else:
                self._group = dist.ProcessGroupGloo(store, self._place, size, timedelta(seconds=connect_s))
        except RuntimeError as error:
            raise self._failed(error) from error

    def announce(self, version: int, dtype: torch.dtype, buckets: Iterable[Shapes]) -> None:
        """By rank 0: what it is about to send. The store forgets what was announced before: all have that now."""
        plan = {"version": version, "dtype": str(dtype).removeprefix("torch."), "buckets": [dict(b) for b in buckets]}
        try:
            if self._announced is not None:
                self._store.delete_key(self._announced)
            self._announced = _key(self._meeting, "plan")
            self._store.set(self._announced, json.dumps(plan))
        except RuntimeError as error:
            raise self._failed(error) from error

    def announced(self) -> tuple[torch.dtype, list[Shapes]]:
        """By an engine: what rank 0 is about to send. Raises TransferError also if it is another version."""
        key, wanted = _key(self._meeting, "plan"), self._meeting.version
        try:
            self._wait_for([key])
            plan = json.loads(self._store.get(key))
        except RuntimeError as error:
            raise self._failed(error) from error
        if plan["version"] != wanted:
            raise self._failed(f"rank 0 sends version {plan['version']}, and the engine waits for {wanted}")
        return getattr(torch, plan["dtype"]), plan["buckets"]

    def broadcast(self, values: Tensor) -> None:
        """Of rank 0's values into those of the engines. Waits until they are there."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        try:
            self._check()
            if self._device.type != "cuda":
                options.timeout = timedelta(seconds=self._end - time.monotonic() + _POLL_S)
            work = self._group.broadcast([values], options)
            self._unfinished = (work, values)
            look, pause = time.monotonic() + _LOOK_S, _POLL_S / 32
            while not work.is_completed():
                time.sleep(pause)
                pause = min(2 * pause, _POLL_S)
                if time.monotonic() > look:
                    look = time.monotonic() + _LOOK_S
                    self._check()
            self._unfinished = None
            work.wait()  # raises what went wrong
        except RuntimeError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """The send is over, and this member has its part of it."""
        self._is_over = True

    def leave(self) -> None:
        """End the last send for all members, unless it is over, and break the connections.

        The members are told through the store too, because gloo does not always notice that a connection is broken.
        gloo cannot end an operation before its deadline either, and freeing the group would wait for the operation. So
        a gloo group with an operation in progress is kept, and so is the tensor that the operation may still write to.
        """
        if self._store is not None and not self._is_over:
            with suppress(RuntimeError):  # the store's process is gone, which the members notice by themselves
                self._store.set(_key(self._meeting, "aborted"), "another member has left")
        if self._group is not None and self._device.type == "cuda":
            self._group.abort()
        elif self._unfinished is not None:
            _abandoned.append((self._group, *self._unfinished))
        self._group = self._unfinished = None
        _abandoned[:] = [entry for entry in _abandoned if not entry[1].is_completed()]

    def _wait_for(self, keys: list[str]) -> None:
        look = 0.0
        while not self._store.check(keys):
            time.sleep(_POLL_S)
            if time.monotonic() > look:
                look = time.monotonic() + _LOOK_S
                self._check()

    def _check(self) -> None:
        """Raises TransferError if the send was aborted or its time is over."""
        if time.monotonic() > self._end:
            raise self._failed(f"it took longer than {self._timeout_s:g} s")
        key = _key(self._meeting, "aborted")
        if self._store.check([key]):
            raise self._failed(self._store.get(key).decode())

    def _failed(self, reason: object) -> TransferError:
        # gloo's have its file and line in front, and advice behind.
        line = re.sub(r"^\[\S*/\S*\] ", "", str(reason)).partition(". This is typically")[0].partition("\n")[0]
        to = ", ".join(self._meeting.engines)
        return TransferError(f"weights: sending version {self._meeting.version} to {to} failed: {line}")


_abandoned: list[tuple[Any, Any, Tensor]] = []
"""(group, operation, tensor) of groups that were left while an operation was in progress."""


def _client(meeting: Meeting, timeout_s: float) -> dist.TCPStore:
    return dist.TCPStore(
        meeting.host, meeting.port, None, False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
    )


def _key(meeting: Meeting, what: str) -> str:
    return f"{meeting.group}/{meeting.send}/{what}"


def _nccl(store: dist.Store, place: int, size: int, timeout_s: float) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    # At this deadline torch ends the process, so the send must have failed before.
    options._timeout = timedelta(seconds=timeout_s + _NCCL_SLACK_S)
    return dist.ProcessGroupNCCL(store, place, size, options)
