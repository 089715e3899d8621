"""Join a Ray cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray

from mars.cluster.environment import inherited
from mars.errors import SetupError

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0


@contextmanager
def ray_cluster(
    address: str | None, object_store_bytes: int, num_cpus: int, environment: Mapping[str, str]
) -> Iterator[Mapping[str, str]]:
    """Connect to Ray inside the block; yields the environment variables to pass to each worker as its runtime_env.

    address: of a running cluster; None starts one on this machine, ignoring RAY_ADDRESS, and stops it afterwards.
    environment: variables of the workers. A cluster started here inherits them, so nothing is yielded: workers without
        a runtime_env reuse the processes that Ray starts in advance, which is faster. A running cluster does not
        inherit them, so they are yielded.
    num_cpus: Ray CPUs of a cluster started here, independent of the number of cores.
    Raises SetupError if the cluster cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    if address is None:
        to_inherit, to_pass = environment, {}
        options |= {
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": object_store_bytes,
            "include_dashboard": False,
        }
    else:
        _check_reachable(address)
        to_inherit, to_pass = {}, environment
        options["address"] = address
    try:
        with inherited(to_inherit):
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SetupError(
            f"cluster.address: no Ray cluster at {address or 'this machine'}: {error}; "
            "start one with `ray start --head`, or set cluster.address=null to start one on this machine for the run"
        ) from error
    try:
        yield to_pass
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise SetupError if host:port does not accept connections; Ray itself would retry for minutes.

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
