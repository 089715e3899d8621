"""Joining or starting a Ray cluster."""

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
    """Connected to Ray inside the block; yields what workers need to be given of `environment` when they are made.

    address: of a running cluster; None starts one on this machine, whatever RAY_ADDRESS says, and ends it afterwards.
    num_cpus: Ray CPUs of a cluster started here, however many cores there are. Ray starts as many processes in
    advance; they inherit `environment`, so that workers without settings of their own take them over.
    Raises SetupError if the cluster cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    if address is None:
        to_inherit, to_give = environment, {}
        options |= {
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": object_store_bytes,
            "include_dashboard": False,
        }
    else:
        _check_reachable(address)
        to_inherit, to_give = {}, environment
        options["address"] = address
    try:
        with inherited(to_inherit):
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SetupError(
            f"cluster.address: no Ray cluster at {address or 'this machine'}: {error}; "
            "start one with `ray start`, or set cluster.address=null for a cluster of this machine alone"
        ) from error
    try:
        yield to_give
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
        raise SetupError(
            f"cluster.address: nobody answers at {address} ({error}); start a cluster with `ray start --head`, "
            "or set cluster.address=null for a cluster of this machine alone"
        ) from error
