"""What a machine needs before a Ray node is started on it: free ports, shared memory, open files, GPUs, a folder."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil

from mars.checks.machine import SHARED_MEMORY, gpus_without_torch
from mars.errors import ConfigError
from mars.output.files import private_folder_problem

_GIB = 2**30
_MIB = 2**20
MIN_OBJECT_STORE_BYTES = 75 * _MIB
"""Ray does not start with a smaller object store."""
_WANTED_FILES, _FEW_FILES = 65536, 4096
# A socket's path may have 107 bytes. This is the longest that Ray adds to the folder.
_MAX_FOLDER_BYTES = 107 - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.1")


def ip_of(option: str, text: str) -> str:
    """The IPv4 address that an option names: an address, or a network interface of this machine, such as eth0.

    Raises ConfigError if this machine does not have it.
    """
    here = {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }
    if text == "0.0.0.0":  # all interfaces, for --dashboard-host
        return text
    for ip, name in here.items():
        if text in (ip, name):
            return ip
    if text.startswith("127.") and not _busy(text, {"any": 0}):  # Linux has all of 127.0.0.0/8 without listing it
        return text
    found = ", ".join(f"{name} {ip}" for ip, name in sorted(here.items()))
    raise ConfigError(f"{option}: this machine has no such address or interface; got {text}; it has {found}")


def ip_toward(host: str) -> str:
    """The address of this machine from which packets go to `host`. Sends none. Raises ConfigError without a route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(
            f"--node-ip: no network interface leads to {host} ({error}); give the address that other nodes reach"
        ) from error


def node_problems(
    ip: str, ports: Mapping[str, int], folder: Path, object_store_bytes: int, num_gpus: int | None
) -> list[str]:
    """One line for each problem, with what was found and what to do.

    ip, ports: where the node will listen; the ports by the names of their options. folder: --temp-dir. num_gpus: None
    if --num-gpus was not given; then GPUs are not checked.
    """
    return [
        *port_problems(ip, ports),
        *_folder_problems(folder),
        *_shared_memory_problems(SHARED_MEMORY, object_store_bytes),
        *_file_problems(),
        *_gpu_problems(num_gpus),
    ]


def free_shared_memory(folder: Path = SHARED_MEMORY) -> int:
    """Free shared memory, in bytes."""
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def raise_file_limit() -> None:
    """Let this process, and what it starts, open as many files as the system permits, up to 65536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def port_problems(ip: str, ports: Mapping[str, int]) -> Iterator[str]:
    busy = [f"{port} (--{option})" for option, port in _busy(ip, ports).items()]
    if busy:
        yield (
            f"ports: {', '.join(busy)} cannot be opened on {ip}; if another Ray node of yours is there, end it "
            "(`ray_up.sh stop`), or choose other ports"
        )


def _busy(ip: str, ports: Mapping[str, int]) -> dict[str, int]:
    """The ports that cannot be opened. Each opened one stays open to the end, so a port given twice is found."""
    found = {}
    with ExitStack() as stack:
        for option, port in ports.items():
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ip, port))
                probe.listen(1)
            except OSError:
                found[option] = port
    return found


def _folder_problems(folder: Path) -> Iterator[str]:
    length = len(os.fsencode(folder))
    if length > _MAX_FOLDER_BYTES:
        yield (
            f"--temp-dir: Ray's sockets are in it, so its path may have {_MAX_FOLDER_BYTES} bytes; got {folder}, which "
            f"has {length}; give a shorter one"
        )
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        yield f"--temp-dir: {folder}: {error.strerror}; give a folder you may write to"
        return
    problem = private_folder_problem(folder)
    if problem is not None:
        yield f"--temp-dir: {problem}"
    elif not os.access(folder, os.W_OK):
        yield f"--temp-dir: {folder} cannot be written to; give another folder"


def _shared_memory_problems(folder: Path, object_store_bytes: int) -> Iterator[str]:
    free = free_shared_memory(folder)
    if object_store_bytes < MIN_OBJECT_STORE_BYTES:
        yield (
            f"--object-store: Ray's smallest is {MIN_OBJECT_STORE_BYTES / _MIB:.0f} MiB; got "
            f"{object_store_bytes / _MIB:.0f} MiB, and {folder} has {free / _MIB:.0f} MiB free; start the container "
            "with a larger --shm-size, or give a larger --object-store"
        )
    elif free < object_store_bytes:
        yield (
            f"shared memory: {folder} has {free / _GIB:.2f} GiB free, and the object store takes "
            f"{object_store_bytes / _GIB:.2f} GiB; start the container with a larger --shm-size, "
            f"`mount -o remount,size=... {folder}`, or lower --object-store"
        )


def _file_problems() -> Iterator[str]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        yield (
            f"open files: this user may have {hard} open, and Ray needs {_FEW_FILES}; raise the limit: `ulimit -Hn`, "
            "nofile in /etc/security/limits.conf, or `docker run --ulimit nofile=65536`"
        )


def _gpu_problems(num_gpus: int | None) -> Iterator[str]:
    found = gpus_without_torch() if num_gpus else 0
    if num_gpus and found < num_gpus:
        yield (
            f"--num-gpus: nvidia-smi shows {found} GPUs; got {num_gpus}; install the driver, give the container its "
            "GPUs (`docker run --gpus all`), or lower --num-gpus"
        )
