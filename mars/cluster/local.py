"""Engine and trainer in this process, without Ray: for tests, debugging and small evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mars.actor.trainer import PolicyTrainer, SupervisedTrainer
from mars.cluster.environment import gc_paused
from mars.errors import SetupError
from mars.rollout.engine import RolloutEngine
from mars.turns import take_turns
from mars.weights.transfer import WeightTransfer

BuildEngine = Callable[[Callable[[Any], Iterable[tuple[str, Any]]]], RolloutEngine]


@contextmanager
def local_workers(
    device: str,
    threads: int,
    build_engine: BuildEngine,
    build_trainer: Callable[[WeightTransfer], PolicyTrainer] | None,
    colocated: bool = False,
) -> Iterator[tuple[RolloutEngine, PolicyTrainer | None]]:
    """Build engine and trainer; close both when the block ends.

    build_trainer: None for evaluation.
    colocated: whether engine and trainer take turns on the device.
    Raises SetupError if device is "cuda" and torch finds no GPU.
    """
    from mars.weights.object_store import in_memory

    _use_device(device, threads)
    with ExitStack() as stack:
        # Build the trainer first: it creates the process group that the engine joins.
        with gc_paused():
            transfer = in_memory()
            trainer = build_trainer(transfer) if build_trainer is not None else None
            if trainer is not None:
                stack.callback(trainer.close)
                if colocated:  # a vLLM engine needs its share of the GPU to be free while it starts
                    trainer.offload()
            engine = build_engine(transfer.receive)
            stack.callback(engine.close)
        yield take_turns(engine, trainer) if colocated and trainer is not None else (engine, trainer)


@contextmanager
def local_rank(
    device: str, threads: int, build_trainer: Callable[[], SupervisedTrainer]
) -> Iterator[SupervisedTrainer]:
    """Build the only rank of a cold start; close it when the block ends. Raises SetupError as `local_workers`."""
    _use_device(device, threads)
    with gc_paused():
        trainer = build_trainer()
    try:
        yield trainer
    finally:
        trainer.close()


def _use_device(device: str, threads: int) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "cluster.device: this machine has no usable GPU (torch.cuda.is_available() is false); got cuda; "
            "use cluster.device=cpu, or join a cluster with GPUs (cluster=ray cluster.address=host:port)"
        )
    torch.set_num_threads(threads)
