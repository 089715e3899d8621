"""A store in the driver's process for sends of weights. The members of a send, ranks and engines, write there how far
they are. The store also says whether a send has failed."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from mars.errors import TransferError
from mars.weights.meeting import Meeting

POLL_S = 0.001
LOOK_S = 0.25  # between two looks whether the send was aborted
_CONNECT_S = 30.0  # for connections to the store, and its answers


class DriverStore:
    """The driver's store. It listens on a free port of `host` only; torch's own store listens on all addresses.

    Its calls cannot block, because the store is in the same process.
    """

    def __init__(self, host: str) -> None:
        listener = socket.create_server((host, 0))
        self.host, self.port = host, listener.getsockname()[1]
        self._store = dist.TCPStore(
            host, self.port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
        )

    def abort(self, meeting: Meeting, reason: str) -> None:
        """Tell all members that this send has failed."""
        self._store.set(_key(meeting, "aborted"), reason)


class MemberStore:
    """The store as a rank or an engine uses it. Every failure raises TransferError. After an abort, so does every call
    that waits.

    timeout_s: how long a whole send may take.
    """

    def __init__(self, meeting: Meeting, timeout_s: float) -> None:
        self.group, self._timeout_s = meeting.group, timeout_s
        self._old: list[str] = []
        self.meeting, self._is_over = meeting, False
        self._end = time.monotonic() + timeout_s
        # Shorter than the whole deadline, so that this member fails in time even if the driver cannot be reached.
        connect_s = timedelta(seconds=min(_CONNECT_S, timeout_s / 2))
        with self.named_errors():
            self._store = dist.TCPStore(meeting.host, meeting.port, None, False, connect_s, wait_for_workers=False)

    def begin(self, meeting: Meeting) -> None:
        """Start the clock of the group's next send. The previous send must be over for all members."""
        self.meeting, self._is_over = meeting, False
        self._end = time.monotonic() + self._timeout_s
        while self._old:
            with self.named_errors():
                self._store.delete_key(self._old.pop())

    def seconds_left(self) -> float:
        return self._end - time.monotonic()

    def set(self, what: str, value: str = "") -> None:
        with self.named_errors():
            self._store.set(_key(self.meeting, what), value)

    def take(self, what: str) -> str:
        """The value of `what`. Waits until it is set, and removes it from the store."""
        value = self.get(what)
        self.forget(what)
        return value

    def get(self, what: str) -> str:
        """The value of `what`. Waits until it is set."""
        self.wait_for([what])
        with self.named_errors():
            return self._store.get(_key(self.meeting, what)).decode()

    def forget(self, what: str) -> None:
        with self.named_errors():
            self._store.delete_key(_key(self.meeting, what))

    def forget_later(self, what: str) -> None:
        """Remove `what` when the next send begins, because other members may still have to read it."""
        self._old.append(_key(self.meeting, what))

    def wait_for(self, whats: Sequence[str]) -> None:
        keys = [_key(self.meeting, what) for what in whats]
        look, pause = 0.0, POLL_S / 16
        with self.named_errors():
            while not self._store.check(keys):
                time.sleep(pause)
                pause = min(2 * pause, POLL_S)
                if time.monotonic() > look:
                    look = time.monotonic() + LOOK_S
                    self.check()

    def check(self) -> None:
        """Raises TransferError if the send was aborted or its time is over."""
        if self.seconds_left() < 0:
            raise self.failed(f"it took longer than {self._timeout_s:g} s")
        key = _key(self.meeting, "aborted")
        with self.named_errors():
            if self._store.check([key]):
                raise self.failed(self._store.get(key).decode())

    def finish(self) -> None:
        """Note that this member's part of the send is complete (see `leave`)."""
        self._is_over = True

    def leave(self) -> None:
        """Make the send fail for all members, unless this member's part is complete (`finish`)."""
        if not self._is_over:
            with suppress(RuntimeError):  # the driver is gone, and with it all others
                self._store.set(_key(self.meeting, "aborted"), "another member has left")

    def for_process_group(self) -> dist.Store:
        """The store with a separate connection, so that a call that waits there does not block the calls here."""
        with self.named_errors():
            return dist.PrefixStore(self.group, self._store.clone())

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turns torch's errors of networks and deadlines into TransferErrors."""
        try:
            yield
        except RuntimeError as error:
            raise self.failed(error) from error

    def failed(self, reason: object) -> TransferError:
        # gloo's messages have a file and line in front, and advice at the end.
        line = re.sub(r"^\[\S*/\S*\] ", "", str(reason)).partition(". This is typically")[0].partition("\n")[0]
        to = ", ".join(self.meeting.engines)
        return TransferError(f"weights: sending version {self.meeting.version} to {to} failed: {line}")


def _key(meeting: Meeting, what: str) -> str:
    return f"{meeting.group}/{meeting.send}/{what}"
