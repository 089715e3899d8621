"""`python -m mars.cluster.wait_for_nodes ADDRESS NUMBER SECONDS`: wait until a Ray cluster has NUMBER nodes.

For scripts that start a cluster; a run checks its requirements itself. Exits with 0 when the nodes have joined. After
SECONDS it prints the nodes that have joined, and exits with 4.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence

from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import RayError

from mars.errors import SetupError

_POLL_S = 0.5
_CALL_S = 5.0


def wait_for_nodes(address: str, number: int, timeout_s: float) -> None:
    """Return when the cluster at address (host:port) has `number` nodes. Raises SetupError after timeout_s."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            nodes = alive_nodes(address)
        except (OSError, RuntimeError, RayError) as error:
            found = f"no Ray cluster answers at {address} ({str(error).strip().partition(chr(10))[0]})"
        else:
            if len(nodes) >= number:
                return
            found = f"{len(nodes)} of {number} nodes have joined the Ray cluster at {address}: {', '.join(nodes)}"
        if time.monotonic() > end:
            raise SetupError(f"{found}, after {timeout_s:g} s")
        time.sleep(_POLL_S)


def alive_nodes(address: str) -> list[str]:
    """The addresses of the nodes of a cluster. Raises OSError if nothing listens at address, else Ray's errors."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=_CALL_S).close()  # Ray itself would retry for 40 s
    nodes = GcsClient(address=address).get_all_node_info(timeout=_CALL_S, state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
    return sorted(node.node_manager_address for node in nodes.values())


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    address, number, seconds = argv
    try:
        wait_for_nodes(address, int(number), float(seconds))
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
