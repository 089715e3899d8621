"""What a step waits for when a checkpoint is due: the trainer's copy of its state, and the thread that commits it."""

from __future__ import annotations

import threading
import weakref
from threading import Event

import pytest
import torch
from torch import nn

from mars.actor import shards
from mars.actor.shards import ShardWriter, _Copies
from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import RunState
from mars.step_parts import SamplingState
from tests.builders import train_config
from tests.fakes.trainer import RecordingTrainer

SETTINGS = train_config({"checkpoint.every": 1}).checkpoint


def state(step: int) -> RunState:
    return RunState(step, SamplingState(step, ()), {}, logged=True)


def test_copies_are_filled_anew_and_do_not_follow_the_weights():
    matrix = nn.Parameter(torch.arange(6.0).view(3, 2))
    weights = {"matrix": matrix, "bias": nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), "steps": torch.tensor(7)}
    copies = _Copies()
    first = copies.of(weights)
    places = [copy.data_ptr() for copy in first.values()]
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(2)
    assert [copy.flatten().tolist() for copy in first.values()] == [[0, 1, 2, 3, 4, 5], [1, 1], [7]]
    second = copies.of(weights)
    assert [copy.flatten().tolist() for copy in second.values()] == [[0, 2, 4, 6, 8, 10], [2, 2], [14]]
    assert [copy.data_ptr() for copy in second.values()] == places
    assert not any(copy.requires_grad for copy in second.values())


@pytest.mark.parametrize("changed", [torch.tensor([3, 4, 5]), torch.tensor([0.1, 0.2], dtype=torch.float64)])
def test_what_has_changed_its_form_gets_another_copy(changed):
    copies = _Copies()
    copies.of({"same": torch.zeros(2), "changed": torch.zeros(2), "gone": torch.zeros(2)})
    found = copies.of({"same": torch.ones(2), "changed": changed})
    assert {name: (copy.dtype, copy.tolist()) for name, copy in found.items()} == {
        "same": (torch.float32, [1, 1]),
        "changed": (changed.dtype, changed.tolist()),
    }


def test_what_was_copied_is_freed_by_the_thread(tmp_path, monkeypatch, process_group):
    """Each tensor that the caller frees could stop it until the thread gives the interpreter back."""
    written = Event()
    monkeypatch.setattr(shards, "_written", lambda *_: written.wait(timeout=30))
    monkeypatch.setattr(shards, "write_report", lambda *_: None)
    writer, weight = ShardWriter(), torch.zeros(2)
    held = weakref.ref(weight)
    writer.start({"weight": weight}, str(tmp_path))
    del weight
    assert held() is not None
    written.set()
    writer._thread.submit(int).result(timeout=30)  # after what was submitted before
    assert held() is None
    writer.close()


def test_an_interruption_while_the_trainer_copies_leaves_nothing_behind(tmp_path):
    class Interrupted(RecordingTrainer):
        def start_checkpoint(self, folder):
            raise KeyboardInterrupt

    catalogue, before = Catalogue(tmp_path), set(threading.enumerate())
    saving = Checkpoints(catalogue, Interrupted(), 1, SETTINGS, {}, "data", timeout_s=3600.0)
    with pytest.raises(KeyboardInterrupt):
        saving.save_if_due(state(1))
    assert set(threading.enumerate()) <= before
    saving._trainer = RecordingTrainer()
    saving.save_now(state(1))  # on the way out
    assert (saving.failures, catalogue.steps()) == (0, [1])
