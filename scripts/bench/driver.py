"""What the driver costs for each rollout of a step: processor time and memory, at different numbers of prompts.

    python scripts/bench.py driver > bench_driver.json
    python scripts/bench.py driver --prompts 1000 --profile profile.txt > /dev/null

The step (mars/step.py) is real, and so are its tokenizer, requests, advantages, metrics, batch (divided into updates,
ranks and forwards), rollout file and state of a checkpoint. Engine, trainer and rewards are fakes whose time is not
counted. With --reward-processes the rewards run in real worker processes, and the driver's work for them is counted.
Each number of prompts is measured in a process of its own, in the second of two steps. docs/benchmarks.md explains
the figures.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import io
import json
import pstats
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

from mars.actor.trainer import PolicyTrainer, ResponseScores, UpdateStats
from mars.build import build_scorer
from mars.checkpoint.state import RunState, state_lines
from mars.cluster.environment import collect_rarely
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.data.prompts.prepare import PromptSet
from mars.data.synthetic.tiny_model import build_tiny
from mars.inputs import Inputs, prompt_format, prompt_stream
from mars.rewards.contract import RewardScorer
from mars.rollout.engine import EngineCounts, FinishedSample, UnreadableRequest
from mars.step import StepResult, train_step
from mars.step_parts import SamplingState
from mars.tracking.multi import MultiTracker
from mars.tracking.rollouts import RolloutFiles
from mars.train_types import TrainBatch
from mars.types import (
    Completion,
    ImageRef,
    Message,
    Prompt,
    RewardInput,
    RewardResult,
    RolloutRequest,
    Source,
    WeightUpdate,
)
from scripts.bench.launch import say
from scripts.bench.machine import machine_facts
from scripts.bench.memory import status_mib
from scripts.bench.parts import parts_without_hooks
from scripts.bench.paths import path_option
from scripts.bench.training import BENCH

FLAT_TARGET = 1.15  # microseconds and bytes per rollout: at the most prompts / at the fewest prompts
_IMAGE_SIDE = 112


@dataclass(frozen=True)
class Point:
    prompts: int
    samples: int
    tokens: int
    ranks: int
    reward_processes: int


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py driver", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--samples", type=int, default=16, help="multi rollouts of a prompt; each anchor view has one")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each response")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--reward-processes", type=int, default=0)
    parser.add_argument("--profile", type=path_option, help="write what took the time at the last number of prompts")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mars_bench_") as folder:
        build_tiny(Path(folder) / "model", seed=0)
        for prompts in options.prompts:
            point = Point(prompts, options.samples, options.tokens, options.ranks, options.reward_processes)
            profile = options.profile if prompts == options.prompts[-1] else None
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                rows.append(process.submit(measure, point, Path(folder), profile).result())
            say(json.dumps(rows[-1]))
    names = ("microseconds_per_rollout", "bytes_per_rollout")
    ratios = {name: rows[-1][name] / rows[0][name] for name in names}
    checks = {
        name: {"value": ratio, "target": FLAT_TARGET, "met": ratio <= FLAT_TARGET} for name, ratio in ratios.items()
    }
    report = {"machine": machine_facts(), "settings": vars(options) | {"profile": None}, "rows": rows}
    json.dump(report | {"checks": checks}, sys.stdout, indent=2)
    print()
    return 0


def measure(point: Point, folder: Path, profile: Path | None) -> dict[str, Any]:
    """Run two steps with the sizes of `point`: driver times of the second, and peak memory. Needs its own process."""
    config = config_of(point, folder)
    form = prompt_format(config)
    prompts = [
        make_prompt(i) for i in range(3 * point.prompts)
    ]  # the last third is for the round whose images are read ahead
    inputs = Inputs(form.encoder, form.budget, PromptSet(prompts, {}, "bench", {}), None, form.frames, config)
    fakes = _Clock()
    scorer = build_scorer(config) if point.reward_processes else _Scorer(fakes)
    engine = _Engine(fakes, form.encoder.token_rules().eos_ids[0], point.tokens)
    trainer = cast(PolicyTrainer, _Trainer())
    parts = parts_without_hooks(config, inputs, engine, trainer, cast(RewardScorer, scorer))
    stream = prompt_stream(config, prompts, None)
    rollouts = RolloutFiles(folder, inputs.frames, inputs.prompt_length)
    tracker = MultiTracker(rollouts, {}, rollouts_every=1, rollout_prompts=8, timeout_s=1.0)
    state = SamplingState(0, ())
    collect_rarely()  # as in a run
    gc.collect()
    gc.freeze()
    collecting = _Collections()
    idle = status_mib("VmRSS")
    profiler = cProfile.Profile()
    seconds: dict[str, float] = {}
    result: StepResult | None = None
    for step in (1, 2):
        result = None  # the loop (mars/fit.py) does not keep the last step's rollouts either
        seconds, fakes.seconds, collecting.seconds = {}, 0.0, 0.0
        if step == 2 and profile is not None:
            profiler.enable()
        with _timed(seconds, "step", fakes):
            result = train_step(parts, stream, state, step)
        with _timed(seconds, "track", fakes):
            tracker.log_rollouts(result.rollouts, step)
        state = result.state
        with _timed(seconds, "state", fakes):
            content = b"".join(state_lines(RunState(step, state, dict(result.metrics), logged=False)))
    profiler.disable()
    scorer.close()
    assert result is not None
    if profile is not None:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(45)
        profile.write_text(text.getvalue())
    number = engine.samples // 2
    total = sum(seconds.values())
    return {
        "prompts": point.prompts,
        "rollouts": number,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "stages": {k: round(v, 3) for k, v in result.metrics.items() if k.startswith("timing_s/")},
        "garbage_collection_seconds": round(collecting.seconds, 3),
        "microseconds_per_rollout": round(1e6 * total / number, 2),
        "peak_mib": round(status_mib("VmHWM"), 1),
        "bytes_per_rollout": round((status_mib("VmHWM") - idle) * 2**20 / number),
        "state_bytes": len(content),
        "carried": len(state.carried),
    }


class _Collections:
    """Processor time of Python's garbage collection, including that during the fakes."""

    def __init__(self) -> None:
        self.seconds = self._start = 0.0
        gc.callbacks.append(self._called)

    def _called(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._start = time.process_time()
        else:
            self.seconds += time.process_time() - self._start


class _Clock:
    """Processor time of the fakes."""

    seconds = 0.0


@contextmanager
def _timed(seconds: dict[str, float], name: str, fakes: _Clock) -> Iterator[None]:
    start, of_fakes = time.process_time(), fakes.seconds
    yield
    seconds[name] = time.process_time() - start - (fakes.seconds - of_fakes)


class _Engine:
    """Responses of random ids. All samples of a request come in one message."""

    def __init__(self, clock: _Clock, eos_id: int, tokens: int) -> None:
        self._clock, self._eos_id, self._tokens, self._random = clock, eos_id, tokens, random.Random(0)
        self.samples = 0

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        for i, request in enumerate(requests):
            start = time.process_time()
            assert request is not None
            found: list[FinishedSample | UnreadableRequest] = [
                FinishedSample(i, k, self._completion()) for k in range(request.num_samples)
            ]
            self.samples += len(found)
            self._clock.seconds += time.process_time() - start
            yield found

    def _completion(self) -> Completion:
        ids = self._random.choices(range(300, 500), k=self._tokens - 1)
        return Completion((*ids, self._eos_id), tuple(self._random.random() for _ in range(self._tokens)), "stop")

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        pass

    def counts(self) -> EngineCounts:
        return EngineCounts()

    def load_weights(self, update: WeightUpdate) -> None:
        pass

    def sleep(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Trainer:
    def update(self, batch: TrainBatch) -> UpdateStats:
        return UpdateStats({}, 0.0, {}, ())

    def score_responses(self, batch: TrainBatch, spec: Any, spans: Any = None) -> ResponseScores:
        raise NotImplementedError

    def publish_weights(self) -> WeightUpdate:
        return WeightUpdate(0, None)


class _Scorer:
    """A random reward of 0 or 1 with one part."""

    def __init__(self, clock: _Clock) -> None:
        self._clock, self._random = clock, random.Random(0)

    def score(self, items: Iterable[RewardInput]) -> list[RewardResult]:
        results = []
        for _ in items:
            start = time.process_time()
            score = float(self._random.random() < 0.5)
            results.append(RewardResult(score, score, {"format": score}))
            self._clock.seconds += time.process_time() - start
        return results

    def close(self) -> None:
        pass


def free_scorer() -> RewardScorer:
    """Random rewards that cost nothing."""
    return cast(RewardScorer, _Scorer(_Clock()))


def config_of(point: Point, folder: Path) -> TrainConfig:
    overrides = [
        "experiment=bench_step",
        "anchor=mono",
        "anchor.samples_per_view=1",
        f"model.path={folder / 'model'}",
        "data.train_files=[none]",
        f"data.prompts_per_step={point.prompts}",
        f"reward.function={BENCH / 'reward.py'}:score",
        f"reward.num_workers={max(point.reward_processes, 1)}",
        f"rollout.samples_per_prompt={point.samples}",
        f"rollout.max_response_tokens={point.tokens}",
        f"rollout.max_model_len={192 + point.tokens}",
        f"actor.num_workers={point.ranks}",
        f"actor.prompts_per_update={point.prompts}",
    ]
    return load_config("train", overrides, [str(BENCH)])


def make_prompt(index: int) -> Prompt:
    text = f"<image><image>Scene {index}: what do the two images show, and which of the two is to be trusted here?"
    sources = tuple(
        Source(name, ImageRef(f"/data/images/{index:06d}_{name}.png", (_IMAGE_SIDE, _IMAGE_SIDE)))
        for name in ("visible", "infrared")
    )
    row = f"/data/train.parquet:{index}"
    return Prompt(f"{index:032x}", row, "bench", (Message("user", text),), sources, "none")
