"""`python -m scripts.bench.supervised FOLDER ...`: mars.main, with a `Ledger` in driver, engines and trainer ranks.

FOLDER: where each process writes its ledger. The other arguments are those of mars.main.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mars import faults, run, watchdog
from mars.cluster import head, ray_launch, ray_trainer, worker_group
from mars.cluster.engine_worker import EngineWorker
from mars.cluster.ray_trainer import TrainerWorker
from mars.cluster.worker_group import WorkerGroup
from mars.process import run_command
from mars.rewards.process import WorkerProcess
from mars.types import WeightUpdate
from scripts.bench.ledger import Hook, Ledger

FOLDER = "MARS_BENCH_LEDGERS"


def _deadline_once() -> None:
    end = time.monotonic() + 1.0
    with WorkerGroup._named(None, "", 1.0, ()):  # type: ignore[arg-type]  # the group is needed only for an error
        max(end - time.monotonic(), 0)


def _reward_clock_once() -> None:
    worker: Any = SimpleNamespace(running=(1,), _deadlines={}, _timeout_s=1.0)
    WorkerProcess._start_clocks(worker)


_HEAD_CHECKS = ((worker_group, "check_head"), (ray_trainer, "check_head"))
HOOKS = (
    Hook("fault points", ((faults, "point"),), lambda: faults.point("engine.samples"), lambda name: None),
    Hook("beats of the watchdog", ((watchdog, "beat"),), lambda: watchdog.beat(), lambda: None),
    Hook("checks of Ray's head", _HEAD_CHECKS, lambda: head.check_head(), lambda: None),
    Hook("deadlines of workers", ((WorkerGroup, "_named"),), _deadline_once, lambda *_: nullcontext()),
    # No stub: this function sets the deadlines, and the pool waits only for workers with a deadline.
    Hook("deadlines of rewards", ((WorkerProcess, "_start_clocks"),), _reward_clock_once, None),
)


def _ledger(name: str) -> Ledger:
    return Ledger(HOOKS, Path(os.environ[FOLDER]) / f"{name}.json")


class LedgerEngine(EngineWorker):
    def __init__(self, name: str, log_dir: str) -> None:
        super().__init__(name, log_dir)
        self._ledger = _ledger(name)

    def load_weights(self, update: WeightUpdate) -> None:
        super().load_weights(update)
        self._ledger.turn()


class LedgerTrainer(TrainerWorker):
    def __init__(self, name: str, log_dir: str) -> None:
        super().__init__(name, log_dir)
        self._ledger = _ledger(name)

    def publish_weights(self) -> WeightUpdate:
        update = super().publish_weights()
        self._ledger.turn()
        return update


def main(folder: str, *arguments: str) -> None:
    os.environ[FOLDER] = folder  # for the workers too
    ledger, train_step = _ledger("driver"), run.train_step

    def step(*given: Any, **named: Any) -> Any:
        ledger.turn()
        return train_step(*given, **named)

    run.train_step = step
    ray_launch.EngineWorker, ray_launch.TrainerWorker = LedgerEngine, LedgerTrainer
    run_command(lambda: import_module("mars.main").main(arguments))


if __name__ == "__main__":
    # Ray's workers find the classes above in a module by its name, which is not __main__.
    import_module("scripts.bench.supervised").main(*sys.argv[1:])
