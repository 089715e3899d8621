"""What a process that computes needs before it imports torch or vLLM. Imports neither, nor Ray."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# glibc: smaller blocks come from the heap, which gives memory back beyond the other number. By itself it moves the
# first, and shrinks the heap whenever its end happens to be free: resident memory jumps by a tenth from step to step.
# So the heap stays what the steps need, see also `give_back_memory`. Below 4 MiB, mapping costs more time than it saves
# memory.
_HEAP_BLOCK_BYTES = 2**22
_HEAP_SPARE_BYTES = 2**32


def worker_environment(threads: int, device: str) -> Mapping[str, str]:
    """Set before a worker's process starts: later it has no effect on memory, nor on torch once that is imported."""
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": str(_HEAP_BLOCK_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_HEAP_SPARE_BYTES),
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if device == "cpu":
        # Compiling takes ten seconds at the first generate and gains nothing for small models.
        environment |= {"TORCH_COMPILE_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return environment


def prepare_process(kind: str, threads: int, device: str) -> None:
    """For cluster=local, where this process is the worker. What the user has set stays."""
    if kind == "local":
        for name, value in worker_environment(threads, device).items():
            os.environ.setdefault(name, value)


def give_back_memory() -> None:
    """Pages of the heap that are free go back to the system, wherever they lie. Does nothing without glibc.

    What the next step needs it takes again, which costs a fifth of a small update: for once in a while. Without it the
    heap comes to hold every page that any step has used.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """What is started inside the block has these variables; this process has its own again afterwards."""
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


@contextmanager
def gc_paused() -> Iterator[None]:
    """Around imports, reading rows and construction: a million objects are made that live as long as the process.

    Collecting garbage among them again and again costs a quarter of the time, and so does looking at them in every
    later collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # extension modules complain about objects that outlive the interpreter
