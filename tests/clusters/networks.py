"""A network of this machine's own, in which each node has an address and a cable that can be pulled. Needs root."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache


@cache
def no_namespaces() -> str:
    """Why nodes cannot have networks and files of their own here; empty if they can."""
    if os.geteuid() != 0:
        return "network and mount namespaces need root"
    try:
        with Network.made(True) as network:
            assert network is not None
            ip = network.new_ip(isolated=True)
            _run(*network.command(ip, ["unshare", "--mount", "true"]))
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network or mount namespaces here: {error}"
    return ""


class Network:
    """A bridge, and for each isolated node a network namespace that a pair of virtual devices connects to it.

    The addresses are of 198.18.0.0/15, which RFC 2544 reserves for tests. This machine has .1; nodes that are not
    isolated share its namespace and have addresses on the bridge.
    """

    def __init__(self) -> None:
        name = secrets.token_hex(3)
        self._bridge, self._prefix, self._ips = f"mb{name}", f"mn{name}", 0
        self._net = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}"
        self._spaces: list[str] = []

    @staticmethod
    @contextmanager
    def made(wanted: bool) -> Iterator[Network | None]:
        """None if not wanted."""
        network = Network() if wanted else None
        try:
            if network is not None:
                _run("ip", "link", "add", network._bridge, "type", "bridge")
                _run("ip", "link", "set", network._bridge, "up")
            yield network
        finally:
            if network is not None:
                network._remove()

    def new_ip(self, isolated: bool) -> str:
        self._ips += 1
        ip = f"{self._net}.{self._ips}"
        if not isolated:
            _run("ip", "address", "add", f"{ip}/24", "dev", self._bridge)
            return ip
        space = self._space(ip)
        inner = f"{space}i"
        _run("ip", "netns", "add", space)
        self._spaces.append(space)
        _run("ip", "link", "add", space, "type", "veth", "peer", "name", inner, "netns", space)
        _run("ip", "link", "set", space, "master", self._bridge, "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "address", "add", f"{ip}/24", "dev", inner)
        _run("ip", "-n", space, "link", "set", inner, "up")
        return ip

    def command(self, ip: str, command: Sequence[str]) -> list[str]:
        """The command in the namespace of this address."""
        return ["nsenter", f"--net=/run/netns/{self._space(ip)}", *command]

    def cut(self, ip: str) -> None:
        _run("ip", "link", "set", self._space(ip), "down")

    def join(self, ip: str) -> None:
        _run("ip", "link", "set", self._space(ip), "up")

    def _space(self, ip: str) -> str:
        return f"{self._prefix}{ip.rpartition('.')[2]}"

    def _remove(self) -> None:
        for space in self._spaces:
            # The device first: the kernel may keep the namespace, and so the device, for a while.
            _run("ip", "link", "delete", space)
            _run("ip", "netns", "delete", space)
        subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
