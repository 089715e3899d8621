"""What passes through the driver of a Ray job in a step: ids, numbers, texts and references, never tensors or pixels.

The real `RayEngine` and `RayTrainer` with workers that are called in this process; every message is looked through,
and weighed as it would be pickled.
"""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from mars.cluster.engine_worker import EngineWorker
from mars.cluster.ray_engine import RayEngine
from mars.cluster.ray_trainer import RayTrainer, TrainerWorker
from mars.cluster.weights import build_transfer
from mars.data.prompts.budget import ImageBudget, num_image_tokens
from mars.train_types import TrainBatch
from mars.types import ImageRef, Message, Prompt, Source, WeightUpdate
from mars.weights.transfer import Bucket
from tests.builders import train_config
from tests.fakes.engine import RecordingEngine
from tests.fakes.step import EOS, IMAGE, one_step, parts, script
from tests.fakes.trainer import RecordingTrainer
from tests.unit.test_step import make_table

PLAIN = (int, float, str, bool, type(None))
SETTINGS = train_config()
BUDGET = ImageBudget(784, 1_003_520, 14, 2)


@dataclasses.dataclass(frozen=True)
class Reference:
    """Stands for an object in Ray's store: what it refers to does not travel with it."""

    value: object = dataclasses.field(repr=False)

    def __reduce__(self):
        return Reference, (None,)


@dataclasses.dataclass
class Traffic:
    """kinds: the types in all messages. sent: bytes that the driver sent, its batches in the store included; received:
    bytes that came back to it."""

    kinds: set[type] = dataclasses.field(default_factory=set)
    sent: int = 0
    received: int = 0


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

    def __init__(self, worker_class, built, traffic: Traffic) -> None:
        self._traffic = traffic
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
        self._send(arguments)
        result = call(*(a.value if isinstance(a, Reference) else a for a in arguments))  # as Ray does it
        return self._receive(result)

    def _send(self, message) -> None:
        look_through(message, self._traffic.kinds)
        self._traffic.sent += len(pickle.dumps(message))

    def _receive(self, message):
        look_through(message, self._traffic.kinds)
        self._traffic.received += len(pickle.dumps(message))
        return message

    def results(self, references, call, timeout_s=None):
        return list(references)

    def outcomes(self, calls, call, failed=None, meanwhile=None):
        return dict(calls)

    def name(self, index):
        return f"worker-{index}"

    def streams(self, method, arguments, recover=None):
        for i, (worker, argument) in enumerate(zip(self._workers, arguments, strict=True)):
            for call in argument:
                self._send(call)
                for message in getattr(worker, method)(call):
                    yield i, self._receive(message)


class HeavyTrainer(RecordingTrainer):
    """Publishes tensors, as a real one does."""

    def publish_weights(self):
        version, weights = super().publish_weights().version, {"weight": torch.zeros(1000, 1000)}
        bucket = Bucket({"weight": (1000, 1000)}, torch.float32, lambda: weights)
        return WeightUpdate(
            version, build_transfer("actor-0", SETTINGS.rollout, SETTINGS.cluster).send(version, [bucket])
        )


def step_on_wires(monkeypatch, image: ImageRef, samples: int = 4):
    """A step of four prompts, each with the image twice, on two engines and two ranks:
    (traffic, engines, trainers, result)."""
    traffic = Traffic()

    def put(value):
        if isinstance(value, TrainBatch):  # the driver's; weights are put into the store by the worker that has them
            traffic.sent += len(pickle.dumps(value))
        return Reference(value)

    monkeypatch.setattr(ray, "put", put)
    sources = (Source("s0", image), Source("s1", image))
    question = (Message("user", "<image><image>Where?"),)
    prompts = [
        Prompt(f"p{i}", f"rows:{i}", "test", question, sources, "yes", extra_info={"name": f"p{i}"}) for i in range(4)
    ]
    engines = [RecordingEngine(script, [EOS]) for _ in range(2)]
    trainers = [HeavyTrainer() for _ in range(2)]
    made = parts(make_table(prompts, random.Random(0), samples), samples=samples, kl_in_reward=0.1)
    length = lambda r: len(r.prompt_token_ids) + sum(num_image_tokens(i.size, BUDGET) for i in r.images)  # noqa: E731
    made = dataclasses.replace(
        made,
        engine=RayEngine(Wire(EngineWorker, [("_engine", engine) for engine in engines], traffic), length, 64, 60.0),
        trainer=RayTrainer(
            Wire(TrainerWorker, [("_trainer", trainer) for trainer in trainers], traffic), "object_store", 60.0
        ),
        prompt_length=length,
        collate=partial(made.collate, prompt_length=length, tokens_per_forward=10_000),
        scoring_batch=partial(made.scoring_batch, prompt_length=length, tokens_per_forward=10_000),
    )
    return traffic, engines, trainers, one_step(made, prompts)


@pytest.fixture
def step(monkeypatch):
    return step_on_wires(monkeypatch, IMAGE)


def test_no_tensor_passes_through_the_driver(step):
    traffic, engines, trainers, _ = step
    assert Reference in traffic.kinds, "weights and batches are sent by reference"
    assert {"RolloutRequest", "FinishedSample", "UpdateStats", "WeightUpdate"} <= {k.__name__ for k in traffic.kinds}
    assert all(len(trainer.batches) == 1 for trainer in trainers)
    look_through(trainers[0].batches, set())  # what the driver put into the store itself
    look_through(trainers[0].scored, set())
    for engine in engines:
        assert isinstance(engine.updates[0].payload, Reference)


def test_the_size_of_images_does_not_show_in_the_traffic(monkeypatch, tmp_path):
    """Files of 1 and 3,000 kB; to the driver they are two numbers each."""
    noise, weighed = np.random.default_rng(0), []
    for side in (16, 1000):
        path = tmp_path / f"{side:03d}.png"
        Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
        weighed.append((path.stat().st_size, step_on_wires(monkeypatch, ImageRef(str(path), (side, side)))[0]))
    (small_file, small), (large_file, large) = weighed
    assert large_file > 2000 * small_file
    assert small.sent <= large.sent <= 1.01 * small.sent
    assert small.received == large.received
    assert large.sent + large.received < large_file / 100


def test_samples_cost_the_driver_their_tokens_and_no_image(monkeypatch, tmp_path):
    """Requests say how many samples are wanted; what comes back and is trained on grows with the answers alone."""
    long_name = ImageRef(str(tmp_path / ("x" * 200)), (28, 28))
    few, many = (step_on_wires(monkeypatch, long_name, samples)[0] for samples in (2, 12))
    plain_few, plain_many = (step_on_wires(monkeypatch, IMAGE, samples)[0] for samples in (2, 12))
    of_names = few.sent - plain_few.sent
    assert of_names > 1000
    assert many.sent - plain_many.sent == of_names, "an image is named as often, however many samples see it"
    assert many.received == plain_many.received


def test_what_the_step_hands_on_holds_no_tensor(step):
    *_, result = step
    look_through([result.metrics, list(result.rollouts), result.state], set())


@pytest.mark.parametrize("smuggled", [torch.zeros(1), b"pixels", WeightUpdate(1, {"weight": [torch.zeros(1)]})])
def test_the_customs_find_what_is_smuggled(smuggled):
    with pytest.raises(AssertionError, match="passes through the driver"):
        look_through([("fine", 1), smuggled], set())
