"""Sessions of the library `requests` that shut a connection if a response's headers are not complete by a deadline.

The timeouts of the library are for each wait for data, so a server that sends a byte now and then never reaches them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

_of_thread = threading.local()


@contextmanager
def headers_until(deadline: float) -> Iterator[None]:
    """A request in the block raises requests.Timeout unless the headers of the response are complete by `deadline`.

    deadline: a time of time.monotonic. The deadline holds for requests of this thread through a session of
    `new_session`. The look-up of a host's name and connecting through a proxy are not interrupted.
    """
    _of_thread.deadline = deadline
    try:
        yield
    finally:
        del _of_thread.deadline


def new_session() -> requests.Session:
    session = requests.Session()
    session.mount("http://", _Adapter())
    session.mount("https://", _Adapter())
    return session


@contextmanager
def _shut_down_late(connected: Any) -> Iterator[None]:
    """Shut a connection down, and raise TimeoutError, if the block is not done by the deadline of `headers_until`.

    connected: a socket, or a TLS object around one.
    """
    # A descriptor of its own: the timer must not touch the state of TLS, which this thread uses.
    link = socket.socket(fileno=os.dup(connected.fileno()))
    late = threading.Event()

    def shut_down() -> None:
        late.set()
        with suppress(OSError):  # the other side has closed it already
            link.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(_of_thread.deadline - time.monotonic(), 0), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()
        link.close()
    if late.is_set():
        raise TimeoutError("the headers were not complete in time")


class JudgeConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:
        with _shut_down_late(self.sock):
            return super().getresponse()


class SecureJudgeConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:
        with _shut_down_late(self.sock):
            return super().getresponse()


class JudgePool(HTTPConnectionPool):
    ConnectionCls = JudgeConnection


class SecureJudgePool(HTTPSConnectionPool):
    ConnectionCls = SecureJudgeConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _use_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> PoolManager:
        manager = super().proxy_manager_for(proxy, **options)
        if isinstance(manager, ProxyManager):  # one for SOCKS has connections of its own
            _use_pools(manager)
        return manager


def _use_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": JudgePool, "https": SecureJudgePool}
