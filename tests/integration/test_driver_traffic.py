"""What passes through the driver of a Ray job in a step: ids, numbers, texts and references, never tensors or pixels.

The real `RayEngine` and `RayTrainer` with workers that are called in this process; every message is looked through.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from mars.actor.recorder import RecordingTrainer
from mars.cluster import ray_trainer
from mars.cluster.ray_engine import EngineWorker, RayEngine
from mars.cluster.ray_trainer import RayTrainer, TrainerWorker
from mars.rollout.recorder import RecordingEngine
from mars.types import Message, Prompt, Source, WeightUpdate

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from step_fakes import EOS, GRPO, IMAGE, one_step, parts, script
from test_step import make_table

PLAIN = (int, float, str, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Reference:
    """Stands for an object in Ray's store: what it refers to does not travel with it."""

    value: object = dataclasses.field(repr=False)


def look_through(message, found: set[type]) -> None:
    """The types of everything in a message; what a reference stands for is not in it."""
    found.add(type(message))
    if isinstance(message, Reference):
        return
    if dataclasses.is_dataclass(message):
        message = vars(message)
    if isinstance(message, Mapping):
        message = [*message.keys(), *message.values()]
    if isinstance(message, list | tuple | set | frozenset):
        for member in message:
            look_through(member, found)
    elif not isinstance(message, PLAIN):
        raise AssertionError(f"a {type(message).__name__} passes through the driver")


class Wire:
    """A worker group whose calls are done when they are made, over a wire that is tapped."""

    def __init__(self, worker_class, built, seen: set[type]) -> None:
        self._seen = seen
        self._workers = []
        for field, value in built:
            worker = object.__new__(worker_class)
            setattr(worker, field, value)
            self._workers.append(worker)
        self.workers = [self._Remote(self, worker) for worker in self._workers]

    class _Remote:
        def __init__(self, wire, worker) -> None:
            self._wire, self._worker = wire, worker

        def __getattr__(self, method):
            call = getattr(self._worker, method)
            return type("Call", (), {"remote": lambda *arguments: self._wire.call(call, *arguments)})

    def call(self, call, *arguments):
        look_through(arguments, self._seen)
        result = call(*(a.value if isinstance(a, Reference) else a for a in arguments))  # as Ray does it
        look_through(result, self._seen)
        return result

    def results(self, references, call, timeout_s=None):
        return list(references)

    def streams(self, method, arguments):
        for i, (worker, argument) in enumerate(zip(self._workers, arguments, strict=True)):
            look_through(argument, self._seen)
            for message in getattr(worker, method)(argument):
                look_through(message, self._seen)
                yield i, message


class HeavyTrainer(RecordingTrainer):
    """Publishes tensors, as a real one does."""

    def publish_weights(self):
        return WeightUpdate(super().publish_weights().version, {"weight": torch.zeros(1000, 1000)})


@pytest.fixture
def traffic(monkeypatch):
    """The types of all messages of a step on two engines and two ranks, and the parts."""
    seen: set[type] = set()
    monkeypatch.setattr(ray_trainer.ray, "put", Reference)
    sources = (Source("s0", IMAGE), Source("s1", IMAGE))
    question = (Message("user", "<image><image>Where?"),)
    prompts = [
        Prompt(f"p{i}", f"rows:{i}", "test", question, sources, "yes", extra_info={"name": f"p{i}"}) for i in range(4)
    ]
    engines = [RecordingEngine(script, [EOS]) for _ in range(2)]
    trainers = [HeavyTrainer(GRPO) for _ in range(2)]
    made = dataclasses.replace(
        parts(make_table(prompts, random.Random(0)), kl_in_reward=0.1),
        engine=RayEngine(Wire(EngineWorker, [("_engine", engine) for engine in engines], seen)),
        trainer=RayTrainer(Wire(TrainerWorker, [("_trainer", trainer) for trainer in trainers], seen)),
    )
    result = one_step(made, prompts)
    return seen, engines, trainers, result


def test_no_tensor_passes_through_the_driver(traffic):
    seen, engines, trainers, _ = traffic
    assert Reference in seen, "weights and batches are sent by reference"
    assert {"RolloutRequest", "FinishedSample", "UpdateStats", "WeightUpdate"} <= {kind.__name__ for kind in seen}
    assert all(len(trainer.batches) == 1 for trainer in trainers)
    look_through(trainers[0].batches, set())  # what the driver put into the store itself
    look_through(trainers[0].scored, set())
    for engine in engines:
        assert isinstance(engine.updates[0].payload, Reference)


def test_what_the_step_hands_on_holds_no_tensor(traffic):
    *_, result = traffic
    look_through([result.metrics, list(result.rollouts), result.state], set())


@pytest.mark.parametrize("smuggled", [torch.zeros(1), b"pixels", WeightUpdate(1, {"weight": [torch.zeros(1)]})])
def test_the_customs_find_what_is_smuggled(smuggled):
    with pytest.raises(AssertionError, match="passes through the driver"):
        look_through([("fine", 1), smuggled], set())
