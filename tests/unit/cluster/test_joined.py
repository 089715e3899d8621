"""When a process takes the head of its cluster for lost."""

from __future__ import annotations

import errno
import socket
import threading
from types import SimpleNamespace

import pytest

from mars.cluster import joined
from mars.cluster.joined import LOST_S, wait_for_loss

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


class Watch:
    """A watching thread under a clock of its own: `looks` are (seconds since the last connection, its error)."""

    def __init__(self, monkeypatch, looks):
        self.now, self.looks, self.pauses, self.over = 1000.0, iter(looks), [], threading.Event()
        monkeypatch.setattr(joined, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(self.over, "wait", self.pauses.append)
        monkeypatch.setattr(joined.socket, "create_connection", self.connect)

    def connect(self, address, timeout):
        seconds, error = next(self.looks, (1, "over"))
        if error == "over":
            self.over.set()
        self.now += seconds
        if isinstance(error, OSError):
            raise error
        return SimpleNamespace(close=lambda: None)

    def reason(self, **options):
        return wait_for_loss("10.0.0.1:6379", self.over, **options)


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([(1, None), (3600, REFUSED), (1, None)], id="one failure after a stall"),
        pytest.param([(1, REFUSED), (3600, REFUSED), (1, None)], id="a stall between two failures"),
        pytest.param([(1, REFUSED)] * 10 + [(1, None)] + [(1, REFUSED)] * 10, id="failures that are not consecutive"),
        pytest.param([(1, OSError(errno.EMFILE, "too many open files"))] * 99, id="files of this process"),
        pytest.param([(1, OSError(errno.EADDRNOTAVAIL, "no free port"))] * 99, id="ports of this process"),
        pytest.param([(1, socket.gaierror(-3, "try again"))] * 99, id="names"),
    ],
)
def test_a_head_is_not_lost_by(monkeypatch, looks):
    assert Watch(monkeypatch, looks).reason() is None


@pytest.mark.parametrize(
    ("seconds", "error", "num"), [(1, REFUSED, 12), (6, TimeoutError("timed out"), 3)], ids=["refused", "no answer"]
)
def test_a_head_that_accepts_nothing_for_ten_seconds_is_lost(monkeypatch, seconds, error, num):
    watch = Watch(monkeypatch, [(1, None), *[(seconds, error)] * num])
    assert "10.0.0.1:6379 has accepted no connection for 10 s" in str(watch.reason())
    assert next(watch.looks, None) is None
    assert watch.now - 1001 - seconds > LOST_S


def test_a_worker_looks_seldom_until_the_head_is_silent(monkeypatch):
    watch = Watch(monkeypatch, [(1, None)] * 50 + [(1, REFUSED)] * 12)
    assert watch.reason(look_s=5.0) is not None
    accepted, silent = watch.pauses[:51], watch.pauses[51:]
    assert min(accepted) >= 2.5
    assert max(accepted) <= 7.5
    assert len(set(accepted)) > 10  # otherwise a thousand workers connect at the same moments
    assert silent == [1.0] * 11
