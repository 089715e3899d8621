"""This process as the driver of a cluster that a test has started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private.authentication_test_utils import reset_auth_token_state

from mars.cluster.environment import inherited
from mars.cluster.runtime import ray_cluster
from tests.clusters.ray_nodes import RayNodes


@contextmanager
def joined(nodes: RayNodes) -> Iterator[None]:
    with inherited(nodes.environment):
        reset_auth_token_state()  # Ray looks for a token when it is imported
        with ray_cluster(nodes.address, 2**26, 0, {}):
            yield
    reset_auth_token_state()
