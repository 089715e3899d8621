"""Engine and trainer on the same GPUs, one at a time (`cluster.placement=colocated`).

    engine    generates │ sleeps: no weights, no KV cache │ loads weights, then gets its KV cache │ generates
    trainer   on host   │ update                          │ on host
                        └ to_trainer                      └ to_engine

Every call of the engine or the trainer first takes the turn that it needs. An engine gets its weights from the
trainer's copies in host memory, so a new engine can get them while the other engines generate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

from mars.actor.trainer import PolicyTrainer, ResponseScores, RestartableTrainer, UpdateStats
from mars.algorithms.scoring import ScoringSpec, Span
from mars.rollout.engine import EngineCounts, FinishedSample, RolloutEngine, UnreadableRequest
from mars.tracking.timer import StepTimer
from mars.train_types import TrainBatch
from mars.types import RolloutRequest, WeightUpdate


class Turns(Protocol):
    """Gives the turn to the trainer or to the engine. A step calls these methods before and after its update, so that
    its timer measures the time of the change."""

    def trainer(self, timer: StepTimer) -> None:
        """The trainer computes from here on. The engine generates only after the next call of `engine()`."""
        ...

    def engine(self, timer: StepTimer) -> None:
        """The engine generates from here on."""
        ...


class NoTurns:
    """`Turns` of engine and trainer that keep their memory all the time (`cluster.placement=separate`)."""

    def trainer(self, timer: StepTimer) -> None:
        """Does nothing: the trainer has memory of its own."""

    def engine(self, timer: StepTimer) -> None:
        """Does nothing: the engine has memory of its own."""


class SharedMemory:
    """`Turns` of an engine and a trainer on the same GPUs. At first the engine is awake and the trainer offloaded."""

    def __init__(self, engine: RolloutEngine, trainer: PolicyTrainer) -> None:
        self._engine, self._trainer = engine, trainer
        self._awake = True
        self._has_weights: bool | None = True  # the engine; None while it changes
        self._held: Literal["nothing", "all"] | None = "nothing"  # by the trainer; None while it changes

    def trainer(self, timer: StepTimer) -> None:
        with timer.stage("turns"):
            self.to_trainer()

    def engine(self, timer: StepTimer) -> None:
        with timer.stage("turns"):
            self.to_engine()

    def to_trainer(self) -> None:
        """After this call the engine sleeps (no weights, no KV cache), and the trainer's whole state is on the GPUs."""
        self.put_engine_to_sleep()
        if self._held != "all":
            self._held = None
            self._trainer.onload()
            self._held = "all"

    def to_host(self) -> None:
        """After this call the trainer is on the host, and the engine sleeps."""
        self.put_engine_to_sleep()
        self._offload()

    def to_engine(self) -> None:
        """After this call the trainer is on the host, and the engine has weights and KV cache.

        If the engine has slept and has not loaded weights since, it gets the trainer's weights first.
        """
        if self._awake:
            return
        self._offload()
        if not self._has_weights:
            self.load(self._trainer.publish_weights())
        self._engine.wake()
        self._awake = True

    def load(self, update: WeightUpdate) -> None:
        """Load weights: the engine allocates memory for them. It gets its KV cache only in `to_engine`."""
        if self._awake:
            self.put_engine_to_sleep()
        self._offload()
        self._has_weights = None
        self._engine.load_weights(update)
        self._has_weights = True

    def restarted(self) -> None:
        """Record that the trainer was built again, with its whole state on the GPUs."""
        self._held = "all"

    def put_engine_to_sleep(self) -> None:
        if self._has_weights is not False:
            self._awake, self._has_weights = False, None
            self._engine.sleep()
            self._has_weights = False

    def _offload(self) -> None:
        if self._held != "nothing":
            self._held = None
            self._trainer.offload()
            self._held = "nothing"


class ColocatedEngine:
    """A `RolloutEngine` whose calls first take the turn. `turns`: of `engine` and its trainer."""

    def __init__(self, engine: RolloutEngine, turns: SharedMemory) -> None:
        self._engine, self._turns = engine, turns

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        self._turns.to_engine()
        yield from self._engine.generate(requests)

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        """Needs no turn, because images are read into host memory."""
        self._engine.prefetch(requests)

    def counts(self) -> EngineCounts:
        return self._engine.counts()

    def load_weights(self, update: WeightUpdate) -> None:
        self._turns.load(update)

    def sleep(self) -> None:
        self._turns.put_engine_to_sleep()

    def wake(self) -> None:
        self._turns.to_engine()

    def close(self) -> None:
        self._engine.close()


class ColocatedTrainer:
    """A `PolicyTrainer` whose calls first take the turn that they need. `turns`: of `trainer` and its engine."""

    def __init__(self, trainer: PolicyTrainer, turns: SharedMemory) -> None:
        self._trainer, self.turns = trainer, turns

    def update(self, batch: TrainBatch) -> UpdateStats:
        self.turns.to_trainer()
        return self._trainer.update(batch)

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        self.turns.to_trainer()
        return self._trainer.score_responses(batch, spec, spans)

    def publish_weights(self) -> WeightUpdate:
        self.turns.to_host()
        return self._trainer.publish_weights()

    def save(self, path: str) -> None:
        self.turns.to_trainer()
        self._trainer.save(path)

    def start_checkpoint(self, folder: str) -> None:
        """Needs no turn: a checkpoint can start whether the trainer is on the GPUs or on the host."""
        self._trainer.start_checkpoint(folder)

    def load_checkpoint(self, folder: str) -> None:
        self.turns.to_trainer()
        self._trainer.load_checkpoint(folder)

    def offload(self) -> None:
        self.turns.to_engine()

    def onload(self) -> None:
        self.turns.to_trainer()

    def close(self) -> None:
        self._trainer.close()


class RestartableColocatedTrainer(ColocatedTrainer):
    """A `RestartableTrainer` that waits for its turn."""

    _trainer: RestartableTrainer

    def restart(self) -> None:
        self.turns.put_engine_to_sleep()
        self._trainer.restart()
        self.turns.restarted()

    def check_alive(self) -> None:
        self._trainer.check_alive()


def take_turns(engine: RolloutEngine, trainer: PolicyTrainer) -> tuple[RolloutEngine, ColocatedTrainer]:
    """Engine and trainer that take turns by themselves. engine: awake. trainer: offloaded."""
    turns = SharedMemory(engine, trainer)
    kind = RestartableColocatedTrainer if isinstance(trainer, RestartableTrainer) else ColocatedTrainer
    return ColocatedEngine(engine, turns), kind(trainer, turns)


def turns_of(trainer: PolicyTrainer) -> Turns:
    return trainer.turns if isinstance(trainer, ColocatedTrainer) else NoTurns()
