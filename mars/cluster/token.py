"""The token of Ray's clusters. Everyone who has it can run programs there as the user who started the cluster.

Ray reads it from the variable RAY_AUTH_TOKEN, from the file named by RAY_AUTH_TOKEN_PATH, or from ~/.ray/auth_token.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from mars.errors import SetupError

_TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_file(environment: Mapping[str, str]) -> Path:
    return Path(environment.get(_TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def token_advice(environment: Mapping[str, str], ip: str) -> list[str]:
    """How to bring the token of this node (address `ip`) to another node: a sentence, then shell lines. If the token is
    in the variable RAY_AUTH_TOKEN, only a sentence."""
    if environment.get(_TOKEN):
        return [f"on each other node, give {_TOKEN} the value that it has here, and start the node:"]
    path = shlex.quote(str(token_file(environment).absolute()))
    folder = shlex.quote(str(token_file(environment).absolute().parent))
    return [
        "on each other node, put the token into the same file, and start the node:",
        f"  (umask 077; mkdir -p {folder})",
        f"  scp -p {ip}:{path} {path}",
    ]


def has_token(environment: Mapping[str, str]) -> bool:
    return bool(environment.get(_TOKEN)) or token_file(environment).is_file()


def make_token(environment: Mapping[str, str]) -> None:
    """Write a new token, which only the user can read, unless there is one. Raises SetupError."""
    if has_token(environment):
        return
    path = token_file(environment)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise SetupError(
            f"token: {path} cannot be written ({error.strerror}); set {_TOKEN_PATH} to a file that you may write"
        ) from error


def token_problems(environment: Mapping[str, str], *, needed: bool) -> list[str]:
    """What is wrong with the token on this machine. needed: whether a missing token is a problem."""
    path = token_file(environment)
    if environment.get(_TOKEN):
        return []
    if not path.is_file():
        advice = f"copy that file from the head (mode 0600), or set {_TOKEN_PATH}"
        return [f"token: there is none in {path}; {advice}"] if needed else []
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return [f"token: others may read {path} (mode {mode:04o}), and with it run programs as you; `chmod 600 {path}`"]
    return []
