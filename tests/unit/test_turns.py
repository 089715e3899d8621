"""Engine and trainer take turns: whatever is called in whatever order, they never hold memory at the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.trainer import RestartableTrainer, UpdateStats
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.tracking.timer import StepTimer
from mars.turns import NoTurns, take_turns, turns_of
from mars.types import WeightUpdate
from tests.builders import make_prompt
from tests.examples import examples
from tests.fakes.engine import RecordingEngine
from tests.fakes.step import IMAGE, one_step, parts, script
from tests.fakes.trainer import RecordingTrainer


class Gpu:
    """Who has what on it. most: the largest number of units that were there at once.

    The trainer's weights are 4 units and its optimizer 8, the engine's weights 2 and its KV cache 6.
    """

    def __init__(self):
        self.trainer, self.engine, self.calls, self.most = {"weights": 4, "optimizer": 8}, {}, [], 0

    def note(self, call):
        self.calls.append(call)
        self.most = max(self.most, sum(self.trainer.values()) + sum(self.engine.values()))


class Engine(RecordingEngine):
    """Refuses what a real engine cannot do, and knows which version of the weights it has."""

    def __init__(self, gpu):
        super().__init__(script, [9])
        self.gpu, self.version = gpu, 0
        gpu.engine |= {"weights": 2, "cache": 6}

    def generate(self, requests):
        assert set(self.gpu.engine) == {"weights", "cache"}
        assert not self.gpu.trainer
        self.gpu.note("generate")
        yield from super().generate(requests)

    def load_weights(self, update):
        assert not self.gpu.engine, "new weights come to an engine that sleeps"
        assert not self.gpu.trainer
        self.gpu.engine["weights"] = 2
        self.version = update.version
        self.gpu.note("load_weights")

    def sleep(self):
        assert "weights" in self.gpu.engine
        self.gpu.engine.clear()
        self.gpu.note("sleep")

    def wake(self):
        assert set(self.gpu.engine) == {"weights"}
        assert not self.gpu.trainer
        self.gpu.engine["cache"] = 6
        self.gpu.note("wake")


class Trainer(RecordingTrainer):
    """A trainer whose processes may be lost. version: of the weights that it has published."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu, self.version = gpu, 0

    def _needs(self, call, *what):
        assert set(self.gpu.trainer) >= set(what)
        self.gpu.note(call)

    def update(self, batch):
        self._needs("update", "weights", "optimizer")
        assert not self.gpu.engine
        return super().update(batch) if batch else UpdateStats({}, 0.0)

    def score_responses(self, batch, spec, spans=None):
        self._needs("kl", "weights", "optimizer")
        assert not self.gpu.engine
        return super().score_responses(batch, spec, spans) if batch else None

    def publish_weights(self):
        assert not self.gpu.trainer, "weights are read from the host, whose copies stay what they are"
        assert not self.gpu.engine, "to gather them takes memory"
        self.gpu.note("publish")
        self.version += 1
        return WeightUpdate(self.version, {})

    def save(self, path):
        self._needs("save", "weights")

    def start_checkpoint(self, folder):
        self._needs("checkpoint")

    def load_checkpoint(self, folder):
        self._needs("load_checkpoint", "weights", "optimizer")

    def offload(self):
        self.gpu.trainer.clear()
        self.gpu.note("offload")

    def onload(self):
        self.gpu.trainer |= {"weights": 4, "optimizer": 8}
        self.gpu.note("onload")

    def restart(self):
        assert not self.gpu.engine, "the new ranks need the memory"
        self.gpu.trainer |= {"weights": 4, "optimizer": 8}
        self.gpu.note("restart")

    def check_alive(self):
        self.gpu.note("check_alive")


def on_one_gpu(trainer_class=Trainer):
    gpu = Gpu()
    trainer = trainer_class(gpu)
    trainer.offload()
    engine = Engine(gpu)
    gpu.calls.clear()
    gpu.most = 0
    return gpu, engine, trainer, *take_turns(engine, trainer)


def one(prompt_id="p"):
    return make_prompt(prompt_id, [IMAGE] * 2, extra_info={"name": prompt_id})


def test_a_step_by_hand():
    gpu, engine, trainer, own_engine, own_trainer = on_one_gpu()
    scores = {("p", None, k): k / 4 for k in range(4)} | {("p", (s,), k): 0.5 for s in ("s0", "s1") for k in range(2)}
    made = parts(scores, num_ranks=1, per_update=1, trainer=own_trainer)
    object.__setattr__(made, "engine", own_engine)
    object.__setattr__(made, "turns", turns_of(own_trainer))
    result = one_step(made, [one()])
    assert gpu.calls == [
        "generate", "sleep", "onload", "update", "offload", "publish", "load_weights", "wake",
    ]  # fmt: skip
    assert gpu.most == 12, "the trainer alone"
    assert "timing_s/turns" in result.metrics
    assert engine.version == trainer.version == 1


def test_with_memory_of_their_own_there_are_no_turns():
    """The same step without turns has no stage for them, and neither is asked to move."""
    made = parts({("p", None, k): k / 4 for k in range(4)}, anchor="none", num_ranks=1, per_update=1)
    assert made.turns == turns_of(made.trainer) or isinstance(made.turns, NoTurns)
    for part, methods in ((made.engine, ("sleep", "wake")), (made.trainer, ("offload", "onload"))):
        for method in methods:
            setattr(part, method, None)
    assert "timing_s/turns" not in one_step(made, [one()]).metrics


CALLS = {
    "generate": lambda engine, trainer: list(engine.generate([])),
    "prefetch": lambda engine, trainer: engine.prefetch([]),
    "sync": lambda engine, trainer: engine.load_weights(trainer.publish_weights()),
    "publish": lambda engine, trainer: trainer.publish_weights(),
    "update": lambda engine, trainer: trainer.update(None),
    "kl": lambda engine, trainer: trainer.score_responses(None, KL_TO_REFERENCE),
    "save": lambda engine, trainer: trainer.save("x"),
    "checkpoint": lambda engine, trainer: trainer.start_checkpoint("x"),
    "resume": lambda engine, trainer: trainer.load_checkpoint("x"),
    "restart": lambda engine, trainer: trainer.restart(),
    "turn of the trainer": lambda engine, trainer: trainer.turns.trainer(StepTimer()),
    "turn of the engine": lambda engine, trainer: trainer.turns.engine(StepTimer()),
}


@given(st.lists(st.sampled_from(sorted(CALLS)), max_size=12))
@examples(300)
def test_in_any_order_of_calls_they_never_compute_at_the_same_time(names):
    """The fakes refuse a call in the wrong turn. A generation after a trainer's turn has the newest weights."""
    gpu, engine, trainer, own_engine, own_trainer = on_one_gpu()
    for name in [*names, "generate"]:
        CALLS[name](own_engine, own_trainer)
        if name == "generate" and trainer.version:
            assert engine.version == trainer.version
    assert gpu.most <= 12


@pytest.mark.parametrize("call", ["sleep", "onload", "offload", "wake", "load_weights"])
def test_after_an_interruption_in_the_middle_of_a_turn_a_checkpoint_can_be_written(call, monkeypatch):
    """It takes no turn: the engine may be in the middle of a generation, or the turn may be half done."""
    gpu, engine, trainer, own_engine, own_trainer = on_one_gpu()
    part = engine if hasattr(engine, call) else trainer
    done = getattr(part, call)

    def interrupted(*arguments, **named):
        done(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(part, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        [CALLS[name](own_engine, own_trainer) for name in ("update", "sync", "generate")]
    own_trainer.start_checkpoint("x")
    assert gpu.calls[-1] == "checkpoint"


def test_only_a_trainer_of_processes_can_be_built_again():
    gpu, _, _, _, own = on_one_gpu()
    assert isinstance(own, RestartableTrainer)
    own.check_alive()
    assert gpu.calls == ["check_alive"]
    alone = RecordingTrainer()
    assert not isinstance(take_turns(Engine(Gpu()), alone)[1], RestartableTrainer)


def test_an_engine_whose_load_broke_off_gives_its_memory_back(monkeypatch):
    """It has taken memory for the weights. The trainer's next turn comes after it sleeps again."""
    _, engine, trainer, own_engine, own_trainer = on_one_gpu()
    CALLS["update"](own_engine, own_trainer)
    load = engine.load_weights

    def broken(update):
        load(update)
        raise ValueError("rank 0 has left")

    monkeypatch.setattr(engine, "load_weights", broken)
    with pytest.raises(ValueError, match="has left"):
        CALLS["sync"](own_engine, own_trainer)
    monkeypatch.undo()
    CALLS["update"](own_engine, own_trainer)
    CALLS["generate"](own_engine, own_trainer)
    assert engine.version == trainer.version
