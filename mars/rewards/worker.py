"""A reward worker process: loads the reward, then scores the items that arrive on a socket until it closes.

Started by mars/rewards/pool.py as `python -m mars.rewards.worker SOCKET_FD LIFELINE_FD`. Protocol: `WorkerSettings` in;
None or the text of a ConfigError out; then lists of `Call` in, and one `Done` out for each call
(mars/rewards/messages.py).
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from mars.errors import ConfigError
from mars.output.terminal import escaped_output
from mars.rewards.call_facts import call_lasting, taken_counts
from mars.rewards.functions import load_list_reward, load_reward
from mars.rewards.local import Scored, describe_error, score_list, score_one
from mars.rewards.messages import Call, Done, WorkerSettings
from mars.rewards.threads import CallThreads
from mars.types import RewardInput


def main(socket_fd: int, lifeline_fd: int) -> None:
    _die_with_parent(lifeline_fd)
    for fd in (socket_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # a program that the reward starts must not keep them open
    connection = Connection(socket_fd)
    try:
        with escaped_output(line_by_line=True):  # a user's function may print what a model wrote
            _serve(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the pool closed its end


def _serve(connection: Connection) -> None:
    pid = os.getpid()
    settings: WorkerSettings = connection.recv()
    try:
        score_items = _load(settings)
    except ConfigError as error:
        connection.send(str(error))
        return
    _end_copy_of(pid)
    connection.send(None)

    def score(call: Call) -> tuple[Scored, ...]:
        with call_lasting(settings.timeout_s):
            scored = _score(score_items, call.payloads)
        _end_copy_of(pid)
        return scored

    if settings.concurrency > 1:
        CallThreads(connection, score, settings.concurrency, settings.timeout_s).serve()
    while True:  # in the main thread, where a function may set signal handlers
        for call in connection.recv():
            connection.send(Done(call.number, score(call), taken_counts()))


def _end_copy_of(pid: int) -> None:
    """Ends this process if the user's code forked it from the worker: only the worker itself may send results."""
    if os.getpid() != pid:
        os._exit(1)


def _load(settings: WorkerSettings) -> Callable[[list[RewardInput]], list[Scored]]:
    in_threads = settings.concurrency > 1
    if settings.by_prompt:
        return partial(score_list, load_list_reward(settings.spec, settings.scorer, in_threads=in_threads))
    reward = load_reward(settings.spec, settings.scorer, in_threads=in_threads)
    return lambda items: [score_one(reward, item) for item in items]


def _score(score: Callable[[list[RewardInput]], list[Scored]], payloads: tuple[bytes, ...]) -> tuple[Scored, ...]:
    """Scores the payloads of a call, in order. If one cannot be unpickled, it fails; `score` gets the others."""
    found: list[RewardInput | Scored] = []
    for payload in payloads:
        try:
            found.append(ForkingPickler.loads(payload))
        except Exception as error:  # noqa: BLE001 a foreign class in extra_info may fail in any way; it is reported
            found.append(describe_error(error))
    items = [item for item in found if not isinstance(item, Scored)]
    scored = iter(score(items) if items else ())
    return tuple(item if isinstance(item, Scored) else next(scored) for item in found)


def _die_with_parent(lifeline_fd: int) -> None:
    """Asks the kernel to send SIGIO to this process group when the parent ends. SIGIO ends every process of the group.

    The lifeline is a pipe. The parent holds its other end and never writes to it, so the only possible event is that
    the parent's end closes. A thread could not watch for this: a regular expression or a C loop may hold the GIL.
    """
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline_fd], [], [], 0)[0]:  # the parent ended before this line
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
