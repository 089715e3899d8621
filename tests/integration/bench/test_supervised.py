"""The ledger of supervision finds the functions that it counts, by their names in mars."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mars import run
from mars.cluster import ray_launch, worker_group
from scripts.bench import supervised
from scripts.bench.ledger import COUNTED, WARM_UP, Ledger


def test_every_hook_counts_its_calls(tmp_path):
    ledger = Ledger(supervised.HOOKS, tmp_path / "ledger.json")
    for _ in range(WARM_UP + COUNTED + 2):
        ledger.turn()
        for hook in supervised.HOOKS:
            hook.once()
        worker_group.check_head()
    found = json.loads((tmp_path / "ledger.json").read_text())
    names = {hook.name for hook in supervised.HOOKS}
    assert set(found["seconds_per_call"]) == names
    assert set(found["steps"][WARM_UP]["calls"]) == names


def test_the_drivers_ledger_turns_with_each_step_of_a_run(tmp_path, monkeypatch):
    for module, name in ((run, "train_step"), (ray_launch, "EngineWorker"), (ray_launch, "TrainerWorker")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back at the end
    monkeypatch.setenv(supervised.FOLDER, "")
    monkeypatch.setattr(supervised, "run_command", lambda command: None)
    turns = []
    monkeypatch.setattr(supervised, "_ledger", lambda name: SimpleNamespace(turn=lambda: turns.append(name)))
    supervised.main(str(tmp_path))
    config = SimpleNamespace(
        rollout=SimpleNamespace(schedule="synchronous", max_staleness=0),
        run=SimpleNamespace(num_steps=1, num_epochs=None),
    )
    step = run._train_step(config, SimpleNamespace())
    with pytest.raises(AttributeError):  # there are no parts: the step itself fails after the turn
        step(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), 1)
    assert turns == ["driver"]
