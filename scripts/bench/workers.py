"""What many workers cost the driver: processor time of a step with 64 engines and 64 ranks on this machine.

    python scripts/bench.py workers --engines 16 --ranks 16
    python scripts/bench.py workers                            # 64 and 64: 15 GB, ten minutes, nothing else running

Real Ray actors of the classes EngineWorker and TrainerWorker are driven by RayEngine, RayTrainer and mars/step.py.
Behind the actors are fakes without a model that sleep as long as a step would take: engines whose samples finish one by
one, and ranks that only receive the batch. The figure is the processor time of the driver's process with all its
threads, including Ray's. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from mars.cluster.engine_worker import EngineWorker
from mars.cluster.environment import collect_rarely, gc_paused, worker_environment
from mars.cluster.layout import layout
from mars.cluster.placement import NodeChoice, Placement
from mars.cluster.ray_engine import RayEngine
from mars.cluster.ray_trainer import RayTrainer, TrainerWorker
from mars.cluster.runtime import ray_cluster
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import ImageAccess
from mars.rollout.engine import EngineCounts, FinishedSample, UnreadableRequest
from mars.rollout.vllm_call import VllmCall, VllmParts
from mars.rollout.window import samples_in_window
from mars.train_types import TrainBatch
from mars.types import RolloutRequest, WeightUpdate
from scripts.bench.paths import path_option

MAX_NUM_SEQS = 256
ENGINE_STEP_S = 0.1
CPU_TARGET = 0.1  # of the time that workers sleep in a step, which on a busy machine is less than the step takes
_ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py workers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--prompts", type=int, help="of a step; default: 16 for each engine")
    parser.add_argument("--samples", type=int, default=16, help="multi rollouts of a prompt; each anchor view has one")
    parser.add_argument("--steps", type=int, default=2, help="the first is not counted")
    parser.add_argument("--generate-s", type=float, default=40.0)
    parser.add_argument("--update-s", type=float, default=20.0)
    parser.add_argument("--timeout-s", type=float, default=900.0, help="for the start of all workers")
    parser.add_argument("--profile", type=path_option, help="write what took the time in the last step")
    options = parser.parse_args(arguments)
    options.prompts = options.prompts or 16 * options.engines
    with tempfile.TemporaryDirectory(prefix="mars_bench_") as folder:
        report = run(options, Path(folder))
    json.dump(report, sys.stdout, indent=2)
    print()
    return 0


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    # Imported here, because the workers import this file and need neither torch nor a tokenizer.
    from mars.data.prompts.prepare import PromptSet
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.inputs import Inputs, prompt_format, prompt_stream
    from mars.step import train_step
    from mars.step_parts import SamplingState
    from scripts.bench.driver import Point, config_of, free_scorer, make_prompt
    from scripts.bench.launch import say
    from scripts.bench.machine import busy_share, machine_facts
    from scripts.bench.parts import parts_without_hooks

    busy = busy_share()
    build_tiny(folder / "model", seed=0)
    config = config_of(Point(options.prompts, options.samples, 24, options.ranks, 0), folder)
    form = prompt_format(config)
    prompts = [make_prompt(i) for i in range((options.steps + 1) * options.prompts)]
    inputs = Inputs(form.encoder, form.budget, PromptSet(prompts, {}, "bench", {}), None, form.frames, config)
    stream, state, rows = prompt_stream(config, prompts, None), SamplingState(0, ()), []
    profiler = cProfile.Profile()
    start = time.monotonic()
    with fake_workers(options, inputs.prompt_length, folder) as (engine, trainer):
        say(f"{options.engines} engines and {options.ranks} ranks started in {time.monotonic() - start:.0f} s")
        with gc_paused():  # this and `collect_rarely` are as in a run
            parts = parts_without_hooks(config, inputs, engine, trainer, free_scorer())
        collect_rarely()
        for step in range(1, options.steps + 1):
            if step == options.steps and options.profile is not None:
                profiler.enable()
            wall, cpu, main_thread = time.monotonic(), time.process_time(), time.thread_time()
            result = train_step(parts, stream, state, step)
            state = result.state
            rows.append({"wall_s": time.monotonic() - wall, "driver_cpu_s": time.process_time() - cpu})
            rows[-1]["main_thread_cpu_s"] = time.thread_time() - main_thread
            rows[-1] |= {name: value for name, value in result.metrics.items() if name.startswith("timing_s/")}
            say(json.dumps(rows[-1]))
        profiler.disable()
    if options.profile is not None:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(45)
        options.profile.write_text(text.getvalue())
    share = rows[-1]["driver_cpu_s"] / (options.generate_s + options.update_s)
    check = {"value": share, "target": CPU_TARGET, "met": share < CPU_TARGET}
    settings = vars(options) | {"profile": None}
    machine = machine_facts() | {"cpu_busy_at_start": busy}
    return {"machine": machine, "settings": settings, "steps": rows, "checks": {"driver_cpu_share": check}}


@contextmanager
def fake_workers(
    options: argparse.Namespace, prompt_length: Callable[[RolloutRequest], int], folder: Path
) -> Iterator[tuple[RayEngine, RayTrainer]]:
    environment = worker_environment(1, "cpu") | {"PYTHONPATH": str(_ROOT)}
    plan = layout(options.engines, 1, options.ranks, 0.01, on_gpu=False, shared=False)
    timeout_s = options.timeout_s
    with ExitStack() as stack:
        # Few Ray CPUs, because Ray starts a process in advance for each of them.
        passed = stack.enter_context(ray_cluster(None, 512 * 2**20, 4, environment, folder))
        placement = Placement(plan, NodeChoice(), timeout_s)
        stack.callback(placement.close)

        def group(worker_class: Any, resources: Any, bundles: Any) -> WorkerGroup:
            return WorkerGroup(worker_class, resources, placement, bundles, passed, str(folder / "logs"), timeout_s)

        engines = group(EngineWorker, plan.engines, plan.engine_bundles)
        engine = RayEngine(engines, prompt_length, samples_in_window(MAX_NUM_SEQS), 60.0)
        stack.callback(engine.close)
        trainer = RayTrainer(group(TrainerWorker, plan.ranks, plan.rank_bundles), "object_store", timeout_s)
        stack.callback(trainer.close)
        images = ImageAccess(None, None, names_node=False, timeout_s=timeout_s)
        builds = engine.start_build(BuildFakeEngine(options.generate_s), no_transfer, images)
        ranks = trainer.start_build(BuildFakeRank(options.update_s), no_transfer, images, timeout_s, timeout_s)
        trainer.finish_build(ranks, timeout_s)
        engine.finish_build(builds, timeout_s)
        yield engine, trainer


def no_transfer(name: str) -> Any:
    """The transfer of a worker that has no weights."""
    return SimpleNamespace(receive=None, leave=lambda: None)


class BuildFakeEngine:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, fetch: Any, decode: Any) -> Any:
        return FakeEngine(self._seconds)


class BuildFakeRank:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, rendezvous: Any, transfer: Any, decode: Any) -> Any:
        return FakeRank(self._seconds)


class FakeEngine:
    """The real `VllmCall` of the engine vllm, over a fake of vLLM. The longest sample takes about `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._vllm = FakeVllm(max(round(seconds / ENGINE_STEP_S), 1))
        self._names = map(str, count())

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        parts = VllmParts(
            self._vllm, MAX_NUM_SEQS, self._names, _as_future, lambda request: None, lambda counts: None, 0
        )
        return VllmCall(parts, requests).finished()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        pass

    def counts(self) -> EngineCounts:
        return EngineCounts()

    def load_weights(self, update: WeightUpdate) -> None:
        pass

    def close(self) -> None:
        pass


def _as_future(request: RolloutRequest) -> Future[RolloutRequest]:
    future: Future[RolloutRequest] = Future()
    future.set_result(request)
    return future


class FakeVllm:
    """Each sample takes a random number of engine steps. No scheduler: the samples of all requests run at once."""

    def __init__(self, most_steps: int) -> None:
        self._most_steps, self._random = most_steps, random.Random(os.getpid())
        self._left: dict[tuple[str, int], int] = {}

    def add_request(self, name: str, request: RolloutRequest, params: None) -> None:
        for k in range(request.num_samples):
            self._left[name, k] = self._random.randint(1, self._most_steps)

    def has_unfinished_requests(self) -> bool:
        return bool(self._left)

    def step(self) -> list[Any]:
        time.sleep(ENGINE_STEP_S)
        over = []
        for sample in list(self._left):
            self._left[sample] -= 1
            if not self._left[sample]:
                del self._left[sample]
                over.append(self._output(*sample))
        return over

    def abort_request(self, names: Sequence[str]) -> None:
        self._left = {sample: left for sample, left in self._left.items() if sample[0] not in names}

    def _output(self, name: str, index: int) -> Any:
        ids = self._random.choices(range(300, 500), k=24)
        logprobs = [{token: SimpleNamespace(logprob=-self._random.random())} for token in ids]
        part = SimpleNamespace(index=index, token_ids=ids, logprobs=logprobs, finish_reason="stop")
        return SimpleNamespace(request_id=name, outputs=[part], prompt_token_ids=(), num_cached_tokens=0)


class FakeRank:
    """Receives the batch and sleeps. Each rank puts bytes in place of weights into the store."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._version = seconds, 0

    def update(self, batch: TrainBatch) -> Any:
        from mars.actor.trainer import UpdateStats

        time.sleep(self._seconds)
        return UpdateStats({"actor/prompts": float(len(batch.prompts))}, 0.0)

    def publish_weights(self) -> WeightUpdate:
        self._version += 1
        return WeightUpdate(self._version, ray.put(b"weights"))

    def close(self) -> None:
        pass
