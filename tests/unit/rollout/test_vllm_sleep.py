"""The engine's sleep: what it asks of vLLM, in which order. On a GPU: tests/gpu/test_gpu_placement.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mars.rollout.vllm_engine import VllmEngine
from mars.rollout.vllm_worker import WorkerExtension, plain_tensors
from mars.types import TokenRules, WeightUpdate
from tests.builders import train_config

RULES = TokenRules(image_id=5, blocked_ids=(5, 6), eos_ids=(7,), pad_id=0)
KEEP, RESTORE, LOAD = "keep_plain_tensors", "restore_plain_tensors", "reload_weights"


class SleepingLlm:
    """Stands for `vllm.LLM` on a GPU: refuses to wake what is awake, and to use what is asleep."""

    def __init__(self, **arguments) -> None:
        self.arguments, self.calls, self.awake, self.fails = arguments, [], {"weights", "kv_cache"}, False
        core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(engine_core=core, reset_encoder_cache=lambda: None)
        self.llm_engine.has_unfinished_requests = lambda: False

    def collective_rpc(self, method: str, kwargs=None) -> None:
        assert "weights" in self.awake
        self.calls.append(method)
        if kwargs is not None:
            list(kwargs["weights_iterator"])

    def sleep(self, level: int) -> None:
        assert "weights" in self.awake
        self.calls.append(f"sleep {level}")
        self.awake.clear()

    def wake_up(self, tags: list[str]) -> None:
        assert not self.awake & set(tags)
        self.calls.append(f"wake {','.join(tags)}")
        self.awake |= set(tags)

    def reset_prefix_cache(self) -> bool:
        return True


@pytest.fixture
def engine(monkeypatch, process_group):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=SleepingLlm))
    found = VllmEngine(
        train_config({"cluster.device": "cuda", "rollout.engine": "vllm", "cluster.placement": "colocated"}),
        RULES,
        3,
        processor_settings={},
        image_bytes=2**25,
        decode=str,
        fetch=lambda payload: iter(payload.items()),
    )
    found._llm.calls.clear()
    yield found
    found.close()


def update(**weights) -> WeightUpdate:
    return WeightUpdate(1, weights)


def test_a_turn_of_the_trainer(engine):
    assert engine._llm.arguments["enable_sleep_mode"] is True
    engine.sleep()
    engine.load_weights(update())
    engine.wake()
    assert engine._llm.calls == [KEEP, "sleep 2", "wake weights", RESTORE, LOAD, "wake kv_cache"]
    assert list(engine.generate([])) == []


def test_an_engine_that_is_awake_takes_weights_and_stays_awake(engine):
    engine.load_weights(update())
    engine.wake()
    assert engine._llm.calls == [LOAD]
    assert list(engine.generate([])) == []


def test_weights_may_come_twice_and_sleep_may_come_again(engine):
    """In the middle the memory of the KV cache is not there, and what is to be kept is kept anew."""
    engine.sleep()
    engine.sleep()
    engine.load_weights(update())
    engine.load_weights(update())
    assert engine._llm.awake == {"weights"}
    engine.sleep()
    engine.load_weights(update())
    turn = [KEEP, "sleep 2", "wake weights", RESTORE, LOAD]
    assert engine._llm.calls == [*turn, LOAD, *turn]


@pytest.mark.parametrize("loaded", [False, True])
def test_it_does_not_generate_before_it_is_awake(engine, loaded):
    engine.sleep()
    if loaded:
        engine.load_weights(update())
    else:
        with pytest.raises(RuntimeError, match="not got all its weights"):
            engine.wake()
    with pytest.raises(RuntimeError, match="sleeps"):
        list(engine.generate([]))


def test_after_a_load_that_broke_off_it_sleeps_or_loads_again(engine):
    """Its weights have their memory by then: a sleep gives it back, and another load does not ask for it."""

    class Broken(dict):
        def items(self):
            raise ValueError("rank 0 has left")

    engine.sleep()
    with pytest.raises(ValueError, match="rank 0"):
        engine.load_weights(WeightUpdate(1, Broken()))
    with pytest.raises(RuntimeError, match="not got all its weights"):
        engine.wake()
    engine.load_weights(update())
    engine.wake()
    assert engine._llm.awake == {"weights", "kv_cache"}
    engine.sleep()
    with pytest.raises(ValueError, match="rank 0"):
        engine.load_weights(WeightUpdate(1, Broken()))
    engine.sleep()
    assert not engine._llm.awake


class Layer(nn.Module):
    """As in vLLM's models: parameters, buffers, and tensors that are neither."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.ones(3))
        self.same = self.weight.data  # changes with the weights: must not be set back
        self.kv_cache = [torch.ones(5)]
        self.zeros = [torch.zeros(4), torch.zeros(6)]
        self.constants = {"range": (torch.arange(3.0),)}


def test_what_is_neither_parameter_nor_buffer_survives_a_sleep():
    model = nn.Sequential(Layer(), Layer())
    assert [tuple(tensor.shape) for tensor in plain_tensors(model)] == 2 * [(4,), (6,), (3,)]
    worker = WorkerExtension()
    worker.model_runner = SimpleNamespace(model=model)
    worker.keep_plain_tensors()
    with torch.no_grad():
        for layer in model:
            for tensor in (layer.weight, layer.scale, *layer.kv_cache, *layer.zeros, layer.constants["range"][0]):
                tensor.fill_(float("nan"))
    worker.restore_plain_tensors()
    for layer in model:
        assert [tensor.abs().sum().item() for tensor in layer.zeros] == [0, 0]
        assert layer.constants["range"][0].tolist() == [0, 1, 2]
        assert all(tensor.isnan().all() for tensor in (layer.weight, layer.scale, *layer.kv_cache)), "vLLM's own"
