"""What a run's numbers may depend on besides its settings: machine, environment, and code of mars."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mars.output.secrets import redact, secret_values

MAX_DIFF_BYTES = 2**20
_TIMEOUT_S = 10.0
_CHECKOUT = Path(__file__).resolve().parents[2]

# Beginnings of the names of variables that libraries read.
_RELEVANT = re.compile(
    r"(CUDA|NVIDIA|NCCL|GLOO|PYTORCH|OMP|MKL|OPENBLAS|KMP|MALLOC|VLLM|RAY|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS"
    r"|SAFETENSORS|WANDB|MARS|SLURM|LD|LC)_|(PYTHON|TORCH)|(VIRTUAL_ENV|CONDA_PREFIX|TMPDIR|PATH|LANG)$"
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes, GPUs. nvidia-smi lists the GPUs, because torch would take memory on them."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
    }


def relevant_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that change what libraries do, without secrets.

    Variables whose names look like those of secrets (API key, token, password) are left out. If a secret's value is
    part of another variable's value, the secret's name is written in its place.
    """
    return {
        name: without_keys(value)
        for name, value in sorted(environment.items())
        if _RELEVANT.match(name) and not _is_key(name)
    }


def without_keys(text: str) -> str:
    """As `redact`, but also without user and password of URLs."""
    return _URL_CREDENTIALS.sub("***", redact(text))


@dataclass(frozen=True)
class CodeVersion:
    """The version of the checkout that mars runs from. commit: None without a checkout.

    diff: the first `MAX_DIFF_BYTES` of `git diff HEAD`. truncated: whether it is longer. untracked: files that git
    does not track, which are not in the diff.
    """

    commit: str | None
    diff: bytes = b""
    truncated: bool = False
    untracked: tuple[str, ...] = ()


def code_version(checkout: Path = _CHECKOUT) -> CodeVersion:
    """The version of the git checkout whose top folder is `checkout`; without a commit if it is not a top folder.

    Folders above do not count, because mars may be installed inside a checkout of other code.
    """
    top = _git(checkout, "rev-parse", "--show-toplevel", limit=2**16)
    if top is None or Path(os.fsdecode(top.rstrip(b"\n"))).resolve() != checkout.resolve():
        return CodeVersion(None)
    commit = _git(checkout, "rev-parse", "HEAD", limit=2**10)
    diff = _git(checkout, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", limit=MAX_DIFF_BYTES + 1)
    others = _git(checkout, "ls-files", "--others", "--exclude-standard", limit=2**16) or b""
    if commit is None or diff is None:
        return CodeVersion(None)
    untracked = tuple(os.fsdecode(name) for name in others.splitlines()[:100])
    truncated = len(diff) > MAX_DIFF_BYTES
    return CodeVersion(commit.decode("ascii").strip(), diff[:MAX_DIFF_BYTES], truncated, untracked)


def _git(folder: Path, *arguments: str, limit: int) -> bytes | None:
    """The first `limit` bytes of git's output; None if it fails or takes too long. Runs no hook, takes no lock."""
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments]
    return _output(command, limit, {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"})


def _output(command: list[str], limit: int, environment: Mapping[str, str]) -> bytes | None:
    if shutil.which(command[0]) is None:
        return None
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        result = subprocess.run(command, **pipes, env=environment, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout[:limit] if result.returncode == 0 else None


def _gpus() -> list[dict[str, str]]:
    """The GPUs of this machine; empty without GPUs or nvidia-smi."""
    fields = ("name", "uuid", "memory.total", "driver_version")
    output = _output(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"], 2**16, os.environ)
    lines = (output or b"").decode("utf-8", "replace").splitlines()
    rows = [[value.strip() for value in line.split(",")] for line in lines if line.strip()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _processor() -> str:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if (name := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)) is not None:
            return name[1]
    return platform.processor() or platform.machine()


def _is_key(name: str) -> bool:
    return bool(secret_values({name: "any long value"}))
