"""Join a Ray cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, worker

from mars import interrupts
from mars.cluster.environment import inherited, loopback_environment
from mars.cluster.guard import MARK, Guard
from mars.cluster.head import watch_head
from mars.cluster.joined import watch_joined
from mars.errors import SetupError, WorkerError
from mars.run_dir.ray_folder import VLLM_VARIABLE, make_ray_folder

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_SHUTDOWN_TIMEOUT_S = 10.0
# Ray installs signal handlers while it starts. At this interval, the run's own handlers are installed again.
_REARM_S = 0.01
# The same for all clusters of this process, because Ray reads it only once.
_TOKEN = secrets.token_hex(32)


@contextmanager
def ray_cluster(
    address: str | None,
    object_store_bytes: int,
    num_cpus: int,
    environment: Mapping[str, str],
    log_dir: Path | None = None,
) -> Iterator[Mapping[str, str]]:
    """Connect to Ray inside the block; yields the environment variables to pass to each worker as its runtime_env.

    address: of a running cluster; None starts one on this machine, ignoring RAY_ADDRESS, and stops it afterwards. It
        listens on the loopback interface only, and its folder is removed at the end.
    environment: variables of the workers. A cluster started here inherits them, so nothing is yielded: without a
        runtime_env, workers reuse processes that Ray starts in advance, which is faster. For a running cluster, the
        variables are yielded.
    num_cpus: Ray CPUs of a cluster started here, independent of the number of cores.
    log_dir: folder for what Ray prints and, of a cluster started here, for the last 256 KiB of each of its main logs.
    Raises SetupError if the cluster cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _quiet(log_dir):
        if address is None:
            with _own_cluster(object_store_bytes, num_cpus, environment, log_dir):
                yield {}
        else:
            _check_reachable(address)
            connection = _Connection({"address": address}, address)
            try:
                with watch_joined():
                    yield environment
            except WorkerError as error:
                # With a lost node, Ray's shutdown was seen to hang, and to end this process with exit code 1.
                interrupts.ends_with(error)
                raise
            finally:
                connection.close()


@contextmanager
def _own_cluster(
    object_store_bytes: int, num_cpus: int, environment: Mapping[str, str], log_dir: Path | None
) -> Iterator[None]:
    folder = make_ray_folder(os.environ)
    guard = Guard(folder, log_dir)
    with ExitStack() as stack:
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(_TOKEN)
        of_cluster = {
            MARK: str(folder),
            "RAY_AUTH_TOKEN_PATH": str(token),
            # vLLM's processes need a folder for sockets too. vLLM's default is TMPDIR, whose path may be too long for
            # them.
            VLLM_VARIABLE: os.environ.get(VLLM_VARIABLE) or str(folder),
            # Ray's agents end together with the raylet, instead of at their next check.
            "RAY_enable_pipe_based_agent_to_parent_health_check": "1",
        }
        options = {
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": object_store_bytes,
            "include_dashboard": False,
            "_temp_dir": str(folder / "ray"),  # Ray lets everybody write to it, but only the user gets there
        }
        try:
            with inherited({**environment, **loopback_environment(), **of_cluster}), _loopback_node():
                connection = _Connection(options, "this machine")
        except BaseException:
            # Interrupted while Ray starts: guard.close() would end processes that Ray's thread waits for, and that
            # thread blocks all others while it waits. So the guard removes the cluster when this process has ended.
            if interrupts.reason() is None:
                guard.close()
            raise
        stack.callback(guard.close)
        stack.callback(connection.close)
        stack.enter_context(watch_head(log_dir))
        yield


@contextmanager
def _loopback_node() -> Iterator[None]:
    """A cluster started inside the block has the address 127.0.0.1, and listens only there.

    Ray replaces a loopback address given to ray.init by one that other nodes can reach, unless Ray's constant
    ENABLE_RAY_CLUSTER is False. Inside the block it is False, which tells Ray that there are no other nodes.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class _ToLog(logging.Handler):
    """Passes records on to the log of the run."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("Ray: %s", record.getMessage())


@contextmanager
def _quiet(log_dir: Path | None) -> Iterator[None]:
    """Inside the block, Ray's output goes to the log, because its messages about lost workers have dozens of lines.

    Ray's C++ part writes to file descriptor 2, which becomes <log_dir>/driver.err. Messages of mars still reach the
    terminal: sys.stderr writes to a copy of the descriptor, which `run_command` made before the block.
    """
    print_message, to_log = worker.print_to_stdstream, _ToLog()
    worker.print_to_stdstream = lambda data, ignore_prefix: logger.debug("Ray: %s", "\n".join(data["lines"]))
    # Handlers of the logger "ray" itself would have no effect, because ray.init removes them.
    parts = [logging.getLogger(f"ray.{name}") for name in ("_private", "_common", "util")]
    for part in parts:
        part.addHandler(to_log)
        part.propagate = False
    try:
        with nullcontext() if log_dir is None else _stderr_to(log_dir / "driver.err"):
            yield
    finally:
        worker.print_to_stdstream = print_message
        for part in parts:
            part.removeHandler(to_log)
            part.propagate = True


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    terminal = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        if not path.stat().st_size:
            path.unlink()


class _Connection:
    """Ray, started and stopped in a separate thread.

    So the main thread is not in a call of Ray meanwhile, and can handle signals and end the process at any time. When
    the thread that has started Ray's processes ends, the kernel ends them, so this thread lives until Ray is shut down.
    """

    def __init__(self, options: dict[str, Any], where: str) -> None:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
        self._options = {**options, **quiet}
        self._error: BaseException | None = None
        self._started, self._close, self._closed = threading.Event(), threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="ray", daemon=True).start()
        while not self._started.wait(_REARM_S):
            interrupts.rearm()
        interrupts.rearm()
        if self._error is not None:
            reason = str(self._error).strip().partition("\n")[0]
            remedy = (
                "see the logs of Ray in <run.dir>/logs, try again, or use cluster=local"
                if options.get("address") == "local"
                else "start one with `ray start --head`, or set cluster.address=null to start one on this machine for "
                "the run"
            )
            raise SetupError(f"cluster.address: no Ray cluster at {where}: {reason}; {remedy}") from self._error

    def close(self) -> None:
        """Shut Ray down. Does nothing if the process is ending early, because Ray may not answer then.

        The guard (mars/cluster/guard.py) stops a cluster that the run has started.
        """
        if interrupts.reason() is not None:
            return
        self._close.set()
        if not self._closed.wait(_SHUTDOWN_TIMEOUT_S):
            logger.info("Ray did not shut down within %g s", _SHUTDOWN_TIMEOUT_S)
            # Ray continues the shutdown, and would end this process with exit code 1 even after a successful training.
            interrupts.skip_exit_hooks()

    def _run(self) -> None:
        try:
            ray.init(**self._options)
        except Exception as error:  # noqa: BLE001 a slow start of Ray is a plain Exception; the main thread raises it
            self._error = error
            ray.shutdown()
            return
        finally:
            self._started.set()
        self._close.wait()
        ray.shutdown()
        self._closed.set()


def _check_reachable(address: str) -> None:
    """Raise SetupError if host:port does not accept connections, because Ray itself would retry for minutes.

    Addresses without a port, such as "auto", are not checked.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise SetupError(
            f"cluster.address: no connection to {address} ({error}); start a cluster with `ray start --head`, "
            "or set cluster.address=null to start one on this machine for the run"
        ) from error
