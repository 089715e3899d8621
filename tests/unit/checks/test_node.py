"""What is missing on a machine for a Ray node: one line for each thing."""

from __future__ import annotations

import resource
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mars.checks import node
from mars.errors import ConfigError


@pytest.fixture
def short_folder():
    with TemporaryDirectory(prefix="n-") as folder:
        yield Path(folder) / "ray"


@pytest.fixture
def problems(short_folder):
    def of(ports=None, folder=short_folder, object_store=node.MIN_OBJECT_STORE_BYTES, gpus=None):
        return node.node_problems("127.0.0.1", ports or {}, folder, object_store, gpus)

    return of


def test_a_machine_that_has_all(problems, short_folder):
    assert problems() == []
    assert short_folder.stat().st_mode & 0o777 == 0o700


def test_ports_that_are_taken_are_named_in_one_line(problems):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = problems(ports={"node-manager-port": port, "port": port})
    assert line.startswith(f"ports: {port} (--node-manager-port), {port} (--port) cannot be opened on 127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert problems(ports={"port": free}) == []
    assert len(problems(ports={"port": free, "node-manager-port": free})) == 1, "two services of one port"


def test_shared_memory_gpus_and_files(problems, monkeypatch):
    monkeypatch.setattr(node, "gpus_without_torch", lambda: 1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    shared, files, gpus = problems(object_store=2**60, gpus=2)
    assert "--shm-size" in shared
    assert files.startswith("open files: this user may have 1024 open")
    assert gpus.startswith("--num-gpus: nvidia-smi shows 1 GPUs; got 2")
    (small,) = problems(object_store=64 * 2**20)[:1]
    assert small.startswith("--object-store: Ray's smallest is 75 MiB; got 64 MiB")


def test_the_folder(problems, short_folder):
    (line,) = problems(folder=short_folder / ("x" * 60))
    assert "give a shorter one" in line
    (line,) = problems(folder=Path("/proc/mars-ray"))
    assert line.startswith("--temp-dir: /proc/mars-ray: ")


def test_a_folder_that_others_can_enter_or_that_is_a_link(problems, short_folder):
    short_folder.mkdir(mode=0o700)
    assert problems() == []
    for mode in (0o701, 0o710, 0o777):
        short_folder.chmod(mode)
        (line,) = problems()
        assert line.startswith(f"--temp-dir: others can enter {short_folder} (mode {mode:04o})")
    short_folder.chmod(0o700)
    link = short_folder.parent / "link"
    link.symlink_to(short_folder)
    (line,) = problems(folder=link)
    assert line.startswith(f"--temp-dir: {link} is no folder, or a link to one")


def test_an_address_or_an_interface():
    assert node.ip_of("--node-ip", "lo") == "127.0.0.1"
    assert node.ip_of("--node-ip", "127.0.0.1") == "127.0.0.1"
    with pytest.raises(ConfigError, match="--node-ip: this machine has no such address or interface; got none0"):
        node.ip_of("--node-ip", "none0")
    assert node.ip_toward("127.0.0.1") == "127.0.0.1"
