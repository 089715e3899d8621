"""Read the images of a batch during its forwards, and agree with other ranks on prompts that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from mars.actor.batch import ProcessedPrompt
from mars.errors import ConfigError, DataError
from mars.train_types import MicroBatch, TrainBatch, TrainPrompt, UpdatePlan
from mars.types import ImageRef

Value = TypeVar("Value")


class Process(Protocol):
    """Turns a prompt's token ids and images into tensors (mars/data/prompts/processor.py). Raises DataError for a bad
    image.

    blank: use white images of the same sizes, and open no image of the prompt.
    """

    def __call__(
        self, prompt_token_ids: Sequence[int], images: Sequence[ImageRef], blank: bool = False
    ) -> ProcessedPrompt: ...


@dataclass(frozen=True)
class _Read:
    """unreadable: why `prompt` has blank images; None if it has its own images."""

    prompt: ProcessedPrompt
    unreadable: str | None


class ReadPrompts:
    """The prompts of one rank's rows, by their index in the batch.

    Asking for a prompt waits until it is read. A prompt that cannot be read gets blank images of the same sizes;
    `unreadable` names it. It is not left out, because all ranks must make the same forwards.
    """

    def __init__(self, pending: Mapping[int, Future[_Read]]) -> None:
        self._pending: Mapping[int, Future[_Read]] = pending
        self._reasons: Mapping[int, str | None] | None = None

    def __getitem__(self, index: int) -> ProcessedPrompt:
        return self._pending[index].result().prompt

    def unreadable(self, micros: Iterable[MicroBatch]) -> dict[int, str]:
        """Index -> reason, for the prompts of these forwards that could not be read on this rank."""
        found = {index: self._reason(index) for micro in micros for index, _ in micro.rows}
        return {index: reason for index, reason in found.items() if reason is not None}

    def drop_prompts(self) -> None:
        """Free the prompts; they cannot be asked for afterwards. Waits until all are read. `unreadable` still works."""
        self._reasons = {index: read.result().unreadable for index, read in self._pending.items()}
        self._pending = {}

    def _reason(self, index: int) -> str | None:
        return self._pending[index].result().unreadable if self._reasons is None else self._reasons[index]


class PromptReader:
    """Reads each prompt once, in a thread, in the order of the forwards."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")

    def start(self, batch: TrainBatch, plans: Sequence[UpdatePlan], rank: int) -> ReadPrompts:
        """Read the prompts of this rank's rows. plans: in the order of the forwards."""
        micros = (micro for plan in plans for micro in plan.ranks[rank])
        mine = dict.fromkeys(p for micro in micros for p, _ in micro.rows)
        return ReadPrompts({p: self._thread.submit(self._read, batch.prompts[p]) for p in mine})

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _read(self, prompt: TrainPrompt) -> _Read:
        try:
            return _Read(self._process(prompt.prompt_token_ids, prompt.images), None)
        except DataError as error:
            return _Read(self._process(prompt.prompt_token_ids, prompt.images, blank=True), str(error))


def agreed(mine: Mapping[int, str], device: torch.device) -> dict[int, str]:
    """Index -> reason, for the prompts that at least one rank could not read, in order of index. The same on all ranks.

    mine: those of this rank. A collective call.
    """
    number = torch.tensor(float(len(mine)), device=device)
    dist.all_reduce(number)
    return dict(sorted(merged_over_ranks(mine).items())) if number.item() else {}


def merged_over_ranks(mine: Mapping[Any, Value]) -> dict[Any, Value]:
    """The entries of all ranks. If ranks share a key, the lowest rank's entry counts. A collective call."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, dict(mine))
    return {key: value for part in reversed(parts) for key, value in part.items()}


def agreed_names(key: str, seen: Iterable[tuple[str, ...]]) -> None:
    """Raises ConfigError on all ranks unless all calls of a rule's method, on all ranks, gave the same names.

    Otherwise the ranks would add up numbers that have different names. key: names the method in the message. seen: the
    names of each call on this rank. A collective call.
    """
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, sorted(set(seen)))
    first, *others = sorted({names for part in parts for names in part})
    if others:
        raise ConfigError(
            f"{key} must give the same names in every call, also of a forward without trained tokens; "
            f"got {list(first)} and {list(others[0])} in one update; give 0 where there is nothing to count"
        )


def without(batch: TrainBatch, indices: Iterable[int]) -> TrainBatch:
    """The batch with weight 0 for all responses to these prompts. Its plans stay valid."""
    prompts = list(batch.prompts)
    for index in indices:
        responses = tuple(replace(response, weight=0.0) for response in prompts[index].responses)
        prompts[index] = replace(prompts[index], responses=responses)
    return replace(batch, prompts=tuple(prompts))
