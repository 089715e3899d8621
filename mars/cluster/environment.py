"""Environment and memory settings of worker processes. Imports neither torch, vLLM nor Ray, which read them."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# glibc allocates blocks below the mmap threshold on the heap, and returns the free end of the heap to the system when
# it exceeds the trim threshold. By default glibc changes both thresholds while the process runs, and resident memory
# varies from step to step. Fixed values keep it steady (`trim_heap` returns unused pages). Measured over 100 steps of
# `scripts/bench.py scale`, two runs with two ranks each: resident memory of a rank grows by 0.8 to 1.5 % with these
# values and `trim_heap`, and by -0.6 to 4.5 % without. A threshold below 4 MiB was slower and saved no memory.
_MMAP_THRESHOLD_BYTES = 2**22
_TRIM_THRESHOLD_BYTES = 2**32


def worker_environment(threads: int, device: str) -> Mapping[str, str]:
    """Environment variables of a worker process.

    Set them before the process starts: glibc reads its variables at start-up, and torch its own when it is imported.
    """
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": str(_MMAP_THRESHOLD_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD_BYTES),
        "PYTHONUTF8": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if device == "cpu":
        # torch.compile takes ten seconds at the first generate and does not make small models faster.
        environment |= {"TORCH_COMPILE_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return environment


def loopback_environment() -> Mapping[str, str]:
    """Variables that make gloo, NCCL and vLLM listen only on the loopback interface, for runs on one machine."""
    interface = "lo" if sys.platform == "linux" else "lo0"
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface, "VLLM_HOST_IP": "127.0.0.1"}


def prepare_process(kind: str, threads: int, device: str) -> None:
    """With cluster=local, set the variables of a worker in this process. Variables that are set already stay."""
    if kind == "local":
        for name, value in {**worker_environment(threads, device), **loopback_environment()}.items():
            os.environ.setdefault(name, value)


def trim_heap() -> None:
    """Return free heap pages to the system. Does nothing without glibc.

    Without this, the heap keeps every page that any step has used. Call it every few dozen updates, not at every
    update: the next update must allocate the pages again, which takes 20 % of the time of a small update.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """Set the variables inside the block, for the processes started there."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def collect_rarely() -> None:
    """Collect garbage seldom in this process. For the driver of workers, which holds no tensors.

    The rollouts of a step are millions of objects without cycles. With Python's default thresholds, garbage collection
    scans them again and again, which takes a third of the driver's time at 180,000 rollouts (`scripts/bench.py
    driver`). With these thresholds, Python scans new objects each time 100,000 more exist, older ones each time 20
    million more exist, and all objects each time 100 million more exist.
    """
    gc.set_threshold(100_000, 200, 5)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection while long-lived objects are created, then freeze them.

    Imports, rows and models are one to two million objects that live until the process ends, and each collection would
    scan them all. Measured in processor seconds, three runs each: one step in one process with rollout=hf takes 6.7
    (6.0 to 7.4) instead of 7.5 (7.1 to 8.1). The start of vLLM takes 1.1 instead
    of 4.7; this includes three calls of gc.collect by vLLM itself, which the pause does not stop.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # otherwise extension modules report frozen objects as leaks at exit
