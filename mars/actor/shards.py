"""The trainer's state in a checkpoint: each rank writes its shards as one safetensors file, in the background.

The files are safetensors, so that loading them executes no code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from mars import faults
from mars.actor.model import PolicyModel
from mars.actor.optimizer import Optimizer
from mars.actor.shard_report import ShardReport, write_report
from mars.actor.sharding import local_part
from mars.errors import CheckpointError
from mars.output.digests import file_digest, sync_folder

logger = logging.getLogger(__name__)

_RANDOM = "random"
_BASE_SUM = "model.base_sum"


class ShardWriter:
    """Writes one checkpoint at a time."""

    def __init__(self) -> None:
        self._groups: tuple[dist.ProcessGroup, dist.ProcessGroup] | None = None
        self._busy = False  # from a call of `start` until this rank reports
        self._copies = _Copies()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def start(self, state: Mapping[str, Tensor], folder: str) -> None:
        """Copy the state to CPU memory. Then a thread writes it to `folder` and reports it (shard_report.py).

        A collective call. Raises CheckpointError on all ranks if one of them still writes the previous checkpoint.
        """
        if self._groups is None:  # separate groups: the threads' collectives run beside those of the training
            self._groups = dist.new_group(backend="gloo"), dist.new_group(backend="gloo")
        threads, callers = self._groups
        busy = torch.tensor([int(self._busy)])
        dist.all_reduce(busy, op=dist.ReduceOp.MAX, group=callers)
        if busy.item():
            raise CheckpointError("the previous checkpoint is still being written")
        copies = self._copies.of(state)
        self._busy = True
        self._thread.submit(self._write, copies, state, threads, Path(folder), dist.get_rank())

    def _write(
        self,
        copies: dict[str, Tensor],
        state: Mapping[str, Tensor],
        group: dist.ProcessGroup,
        folder: Path,
        rank: int,
    ) -> None:
        """state: not read; the argument keeps its tensors alive until the shards are written. Otherwise the training
        thread would free them right after `start`. torch releases the GIL for each tensor that it frees, and this busy
        thread would then hold it for long."""
        report = _written(copies, group, folder, rank)
        self._busy = False  # before the report, after which the driver may ask for the next checkpoint
        try:
            write_report(folder, rank, report)
        except OSError as error:
            logger.warning("%s: this rank cannot report its shards: %s", folder, error)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Copies:
    """Copies tensors to CPU memory. The memory is kept for the next checkpoint, because allocating takes longer than
    copying.

    The next call overwrites the copies, so the previous checkpoint must be written by then.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the tensors of `state`. Returns when all are complete, also those of tensors on a GPU."""
        kept, self._kept = self._kept, {}
        for name, value in state.items():
            copy = kept.get(name)
            if copy is None or (copy.shape, copy.dtype) != (value.shape, value.dtype):
                copy = value.detach().to("cpu", copy=True)
            else:
                local_part(copy).copy_(local_part(value))
            self._kept[name] = copy
        return dict(self._kept)


def trainer_state(
    policy: PolicyModel, optimizer: Optimizer, skipped_in_a_row: int, rank: int, reference: PolicyModel | None = None
) -> dict[str, Tensor]:
    """All tensors of a trainer by name. reference: a reference model that is updated; None if it stays as loaded.

    Parameters and AdamW's moments are the trainer's own tensors, so that loading fills them in place.
    """
    state = model_state(policy)
    state |= {f"optimizer.{name}": value for name, value in optimizer.tensors().items()}
    if reference is not None:
        state |= {f"reference.{name}": value for name, value in model_state(reference).items()}
    state["trainer.skipped_in_a_row"] = torch.tensor([skipped_in_a_row])
    state[f"{_RANDOM}.cpu.{rank}"] = torch.random.get_rng_state()
    if torch.cuda.is_available():
        state[f"{_RANDOM}.cuda.{rank}"] = torch.cuda.get_rng_state()
    return state


def model_state(policy: PolicyModel) -> dict[str, Tensor]:
    """The model's part of `trainer_state`: parameters and persistent buffers, each once.

    With LoRA: only the adapters, and the checksum (`bit_sum`) of all other weights, which are those of model.path.
    """
    owned = {name for name, _ in (*policy.named_parameters(), *policy.named_buffers())}  # tied ones have two names
    base = {}
    if policy.base_sum is not None:
        owned = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        base = {_BASE_SUM: policy.base_sum.clone()}
    state = policy.state_dict(keep_vars=True)  # to detach FSDP's tensors would take as long as to copy a small model
    return {f"model.{name}": value for name, value in state.items() if name in owned} | base


def load_trainer_state(
    policy: PolicyModel, optimizer: Optimizer, rank: int, folder: str, reference: PolicyModel | None = None
) -> int:
    """Read a checkpoint into the policy, the optimizer, `reference` (if given) and this rank's random state, on any
    number of ranks.

    Returns how many updates in a row had been skipped when the checkpoint was written.

    Raises CheckpointError if the checkpoint belongs to another model.
    """
    reader = HuggingFaceStorageReader(folder)
    try:
        stored = reader.read_metadata().state_dict_metadata
        steps = {"optimizer.steps": torch.zeros(stored["optimizer.steps"].size, dtype=torch.int64)}
        load(steps, storage_reader=reader)
        optimizer.prepare_load(steps["optimizer.steps"])
        state = trainer_state(policy, optimizer, skipped_in_a_row=0, rank=rank, reference=reference)
        # A rank that the saved run did not have keeps the random state that its seed gave it.
        state = {name: value for name, value in state.items() if not name.startswith(_RANDOM) or name in stored}
        load(state, storage_reader=reader)
    except (CheckpointException, KeyError, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{folder}: cannot be loaded into this trainer: {_reason(error)}; "
            "resume with the model and the settings of freeze and lora that the run was started with"
        ) from error
    check_base(policy, state, folder)
    for name, set_state in (("cpu", torch.random.set_rng_state), ("cuda", _set_cuda_rng_state)):
        if (value := state.get(f"{_RANDOM}.{name}.{rank}")) is not None:
            set_state(value)
    return int(state["trainer.skipped_in_a_row"])


def check_base(policy: PolicyModel, state: Mapping[str, Tensor], folder: str) -> None:
    """state: a loaded `model_state`. Raises CheckpointError if its adapters were trained for other weights."""
    if policy.base_sum is not None and not torch.equal(state[_BASE_SUM], policy.base_sum):
        raise CheckpointError(
            f"{folder}: its adapters belong to other weights than those of model.path; "
            "give the model that the run was started with"
        )


def _set_cuda_rng_state(state: Tensor) -> None:
    torch.cuda.set_rng_state(state.cpu())


def _written(state: dict[str, Tensor], group: dist.ProcessGroup, folder: Path, rank: int) -> ShardReport:
    """Write the shards of this rank. Returns their digests, or why they could not be written."""
    try:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(state, storage_writer=writer, process_group=group)
        faults.point("actor.shard_written")
        sync_folder(folder)
        own = folder.glob(f"shard-{rank + 1:05d}-*.safetensors")
        return ShardReport({path.name: file_digest(path) for path in own}, None)
    except (CheckpointException, OSError, RuntimeError) as error:
        with suppress(OSError):
            for path in folder.glob(f"shard-{rank + 1:05d}-*"):  # makes room for the report on a full disk
                path.unlink(missing_ok=True)
        return ShardReport({}, _reason(error))


def _reason(error: BaseException) -> str:
    """An error in one line. Where torch wraps errors of ranks in a text with tracebacks: the first rank's error."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (failure, *_) = next(iter(error.failures.items()))
        return f"rank {rank}: {type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
