"""Set up the process that vLLM runs in: environment variables that vLLM reads, and choices that mars makes for vLLM."""

from __future__ import annotations

import logging
import os
import warnings


def prepare(num_processes: int, device: str) -> None:
    """Set up this process for vLLM. Must be called before vLLM is imported.

    num_processes: how many processes the engine has: `rollout.tensor_parallel_size`.
    """
    _make_quiet()
    if num_processes == 1:
        _be_alone(device)
    elif device == "cpu":
        _leave_cores_open()


def executor(num_processes: int) -> str | None:
    """vLLM's executor backend: "mp" for an engine of several processes, None (vLLM's choice) for one.

    Without this, vLLM would find Ray's placement group and require one of its bundles for each GPU.
    """
    return "mp" if num_processes > 1 else None


def _leave_cores_open() -> None:
    """Let the operating system choose the cores of an engine's processes on a CPU, unless the user has set them.

    vLLM would bind each process to its own NUMA node, and refuse more processes than nodes.
    """
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _make_quiet() -> None:
    # Read when vLLM is imported: run the engine in this process, log only errors, send no usage statistics.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Hide warnings of the import: GPU features missing on a CPU, and deprecations in vLLM's dependencies.
    logging.getLogger("vllm").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\..*")


def _be_alone(device: str) -> None:
    """Make the torch.distributed group that vLLM needs, with this process as the only member.

    vLLM would make the group with a store that listens on all network interfaces.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
