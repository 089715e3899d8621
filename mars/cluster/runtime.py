"""Joining or starting a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from mars.errors import EnvironmentProblem

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0


@contextmanager
def ray_cluster(address: str | None, object_store_bytes: int, cpus_wanted: float) -> Iterator[None]:
    """Connected to Ray inside the block.

    address: of a running cluster; None starts one on this machine, whatever RAY_ADDRESS says, and ends it afterwards.
    cpus_wanted: Ray CPUs of all workers; a cluster started here has at least so many, however few cores there are.
    Raises EnvironmentProblem if the cluster cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    if address is None:
        cpus = max(os.cpu_count() or 1, math.ceil(cpus_wanted))
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "object_store_memory": object_store_bytes,
            "include_dashboard": False,
        }
    else:
        _check_reachable(address)
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise EnvironmentProblem(
            f"cluster.address: no Ray cluster at {address or 'this machine'}: {error}; "
            "start one with `ray start`, or set cluster.address=null for a cluster of this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself goes on trying an address that nobody listens on for minutes. Names such as "auto" are left to it."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise EnvironmentProblem(
            f"cluster.address: nobody answers at {address} ({error}); start a cluster with `ray start --head`, "
            "or set cluster.address=null for a cluster of this machine alone"
        ) from error
