"""The folder of Ray's files for a run that starts its own Ray cluster. Its path must be short."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mars.errors import SetupError

_MAX_SOCKET_BYTES = 107  # the longest path of a socket (Linux: sockaddr_un)
_PREFIX = "mars-ray-"
_OWN = f"/{_PREFIX}abcdefgh"  # the run's own folder, with a random name
OWN_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
"""Matches the names of the folders that `make_ray_folder` makes."""
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # the longest name that Ray gives
_VLLM_SOCKET = "/01234567-89ab-cdef-0123-456789abcdef"  # the name that vLLM gives
VLLM_VARIABLE = "VLLM_RPC_BASE_PATH"
"""Names the folder of vLLM's sockets."""
MAX_PARENT_BYTES = _MAX_SOCKET_BYTES - len(_OWN + _SOCKET)
"""The longest path of a folder for `make_ray_folder`."""


def ray_folder_parent(environment: Mapping[str, str]) -> Path:
    """The folder in which a run makes Ray's folder: RAY_TMPDIR, else TMPDIR, else /tmp.

    Raises SetupError if its path is too long for Ray's sockets, or if nothing can be written there.
    """
    named = environment.get("RAY_TMPDIR")
    variable, folder = ("RAY_TMPDIR", Path(named).absolute()) if named else ("TMPDIR", Path(tempfile.gettempdir()))
    length = len(os.fsencode(folder))
    if length > MAX_PARENT_BYTES:
        raise SetupError(
            f"{variable}: Ray's sockets are below this folder, and the path of a socket has at most "
            f"{_MAX_SOCKET_BYTES} bytes; got {folder} of {length} bytes, at most {MAX_PARENT_BYTES} are possible; "
            "export RAY_TMPDIR=/tmp, or another short path (TMPDIR may stay as it is), or use cluster=local"
        )
    if (problem := _unusable(folder)) is not None:
        raise SetupError(
            f"{variable}: Ray's files and sockets are below this folder, and it {problem}; got {folder}; "
            "export RAY_TMPDIR=/tmp, or another short path that you may write to"
        )
    return folder


def _unusable(folder: Path) -> str | None:
    if folder.is_dir():
        return None if os.access(folder, os.W_OK | os.X_OK) else "cannot be written to"
    return "is not a folder" if folder.exists() else "is not there"


def check_vllm_folder(environment: Mapping[str, str]) -> None:
    """Raises SetupError if the folder in VLLM_RPC_BASE_PATH, for vLLM's sockets, has a path that is too long for them,
    or cannot be written to.

    Without this variable, a run puts these sockets into Ray's folder.
    """
    folder = environment.get(VLLM_VARIABLE, "")
    length = len(os.fsencode(os.path.abspath(folder))) if folder else 0
    most = _MAX_SOCKET_BYTES - len(_VLLM_SOCKET)
    if length > most:
        raise SetupError(
            f"{VLLM_VARIABLE}: vLLM's sockets are in this folder, and the path of a socket has at most "
            f"{_MAX_SOCKET_BYTES} bytes; got {folder} of {length} bytes, at most {most} are possible; unset it"
        )
    if folder and (problem := _unusable(Path(folder))) is not None:
        raise SetupError(
            f"{VLLM_VARIABLE}: vLLM's sockets are in this folder, and it {problem}; got {folder}; unset it"
        )


def make_ray_folder(environment: Mapping[str, str]) -> Path:
    """A new folder that only the user can read. Raises SetupError as `ray_folder_parent` does, or for a full disk."""
    parent = ray_folder_parent(environment)
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise SetupError(
            f"RAY_TMPDIR: {parent}: {error.strerror}; export RAY_TMPDIR=a short path with space that you may write to"
        ) from error
