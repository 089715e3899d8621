"""A chat endpoint on the loopback interface that misbehaves as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            step = self.server.steps.pop(0) if self.server.steps else says("yes")
        step(self)

    def reply(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


class JudgeServer(ThreadingHTTPServer):
    """steps: what it does with each request; after these it says "yes". requests: (path, headers, body) of each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.steps: list[Step] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing about clients that went away."""


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def says(text: Any) -> Step:
    content = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    return lambda handler: handler.reply(200, content)


def status(number: int, content: bytes = b"{}", **headers: str) -> Step:
    return lambda handler: handler.reply(number, content, **headers)


def body(content: bytes) -> Step:
    return lambda handler: handler.reply(200, content)


def cut(handler: Handler) -> None:
    handler.reply(200, b'{"choices": [', length=1000)
    handler.close_connection = True


def close(handler: Handler) -> None:
    handler.close_connection = True


def hang(handler: Handler) -> None:
    handler.server.ended.wait(60)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """One byte at a time, without end: no single wait for data is long."""
    handler.reply(200, b"", length=10**9)
    while not handler.server.ended.wait(0.005):
        handler.wfile.write(b" ")


def drip_headers(handler: Handler) -> None:
    """As `drip`, before the answer yes."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(100):
        handler.server.ended.wait(0.005)
        handler.wfile.write(b"a")
    handler.wfile.write(b"\r\n")
    content = json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()
    handler.wfile.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))


def sends(line: bytes) -> Step:
    """These bytes instead of a response."""

    def step(handler: Handler) -> None:
        handler.wfile.write(line)
        handler.close_connection = True

    return step
