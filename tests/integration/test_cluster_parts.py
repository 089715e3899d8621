"""The parts of mars.cluster that need no running cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain, zip_longest

import pytest

from mars.cluster import engine_worker, head
from mars.cluster.engine_worker import EngineWorker
from mars.cluster.environment import inherited, worker_environment
from mars.cluster.ray_engine import RayEngine
from mars.cluster.weights import StoredWeights
from mars.errors import WorkerError
from mars.rollout.engine import EngineCounts, UnreadableRequest, ended
from mars.rollout.scripted import ScriptedEngine, random_script
from mars.rollout.window import in_parts
from mars.types import ImageRef, RolloutRequest, Sampling, WeightUpdate
from tests.builders import completions
from tests.fakes.engine import RecordingEngine

WINDOW = 8


def request(prompt_id, view=None, samples=2, seed=0):
    return RolloutRequest(prompt_id, view, (1,), (), samples, seed, Sampling(1.0, 1.0, 0, 6))


def num_ids(request):
    return len(request.prompt_token_ids)


class InProcess:
    """A worker group without Ray: a call is done when it is made, and messages of the workers come in turns."""

    class _Worker:
        _has_all_weights = True
        _images = EngineWorker._images
        _generation = None

        def __init__(self, engine):
            self._engine = engine
            self.let_go = lambda: EngineWorker.let_go(self)
            self.generate = lambda part: EngineWorker.generate(self, part)
            self.load_weights = type("Call", (), {"remote": staticmethod(engine.load_weights)})

    def __init__(self, engines):
        self.workers = [self._Worker(engine) for engine in engines]

    def results(self, references, call, timeout_s=None):
        return list(references)

    def outcomes(self, calls, call, failed=None, meanwhile=None):
        return dict(calls)

    def name(self, index):
        return f"engine-{index}"

    def streams(self, method, arguments, recover=None):
        streams = [
            chain.from_iterable(map(getattr(w, method), calls))
            for w, calls in zip(self.workers, arguments, strict=True)
        ]
        for messages in zip_longest(*streams):
            yield from ((i, message) for i, message in enumerate(messages) if message is not None)


@pytest.mark.parametrize("num_engines", [1, 2, 3])
def test_several_engines_answer_as_one_does(num_engines):
    """Request order is kept and seeds belong to requests: the number of engines changes nothing."""
    requests = [request(f"p{i % 4}", None if i < 4 else (f"s{i}",), samples=1 + i % 3, seed=100 * i) for i in range(11)]
    alone = completions(ScriptedEngine(random_script(range(5, 30), 1), [1]), requests)
    engines = [RecordingEngine(random_script(range(5, 30), 1), [1]) for _ in range(num_engines)]
    several = RayEngine(InProcess(engines), num_ids, WINDOW, 60.0)
    assert completions(several, requests) == alone
    assert several.counts() == EngineCounts()
    completions(several, [replace(r, images=(ImageRef(r.prompt_id, (28, 28)),)) for r in requests])
    assert several.counts() == EngineCounts(images=4), "the engines' counts, each after its last message"
    several.load_weights(WeightUpdate(1, StoredWeights("new")))
    assert all(engine.updates == [WeightUpdate(1, "new")] for engine in engines)


def test_what_cannot_be_read_is_reported_under_the_number_of_the_whole_call():
    requests = [request(f"p{i}", samples=1, seed=i) for i in range(5)]
    engines = [RecordingEngine(random_script(range(5, 30), 1), [1]) for _ in range(2)]
    for engine in engines:
        engine.unreadable = {("p2", None): "p2.png", ("p3", None): "p3.png"}
    found = [
        item for message in RayEngine(InProcess(engines), num_ids, WINDOW, 60.0).generate(requests) for item in message
    ]
    refused = {item.request: item.reason for item in found if isinstance(item, UnreadableRequest)}
    assert (refused, sorted(item.request for item in found)) == ({2: "p2.png", 3: "p3.png"}, [0, 1, 2, 3, 4])


def test_a_worker_goes_on_with_the_next_part_and_forgets_a_call_that_was_given_up():
    """The counts come once, after the last part; the engine's memory holds one window."""
    closed = []

    class Engine(RecordingEngine):
        def generate(self, requests):
            try:
                yield from super().generate(requests)
            finally:
                closed.append(len(self.requests))

    engine = Engine(random_script(range(5, 30), 1), [1])
    worker = InProcess([engine]).workers[0]
    requests = [request(f"p{i}", samples=2, seed=i) for i in range(6)]
    first, second, *_, last = in_parts(requests, WINDOW)
    messages = [list(worker.generate(part)) for part in (first, second, last)]
    assert [len(each) for each in messages] == [2, 2, 3]
    assert [isinstance(each[-1], EngineCounts) for each in messages] == [False, False, True]
    assert [[item.request for item in items] for each in messages for items in each if isinstance(items, list)] == [
        [i] * 2 for i in range(6)
    ]
    assert closed == [6]
    list(worker.generate(first))
    list(worker.generate(in_parts(requests[:1], WINDOW)[0]))
    assert closed == [6, 8, 9], "the call that was given up is closed before the next one begins"


def test_a_call_that_was_given_up_is_in_no_counts():
    """What it has computed until then depends on the time at which it was given up."""
    requests = [replace(request(f"p{i}", seed=i), images=(ImageRef(f"p{i}", (28, 28)),)) for i in range(12)]
    engine = RayEngine(InProcess([ScriptedEngine(random_script(range(5, 30), 1), [1])]), num_ids, WINDOW, 60.0)
    given_up = engine.generate(requests)
    next(given_up)
    given_up.close()
    completions(engine, requests[:3])
    assert engine.counts() == EngineCounts(images=3)


def test_a_call_that_was_given_up_is_in_no_counts_of_any_engine():
    """One engine had ended, and had sent its counts."""
    requests = [replace(request(f"p{i}", seed=i), images=(ImageRef(f"p{i}", (28, 28)),)) for i in range(6)]

    class OneAfterTheOther(InProcess):
        counts_sent = 0

        def streams(self, method, arguments, recover=None):
            for i, (worker, calls) in enumerate(zip(self.workers, arguments, strict=True)):
                for message in chain.from_iterable(map(worker.generate, calls)):
                    self.counts_sent += isinstance(message, EngineCounts)
                    yield i, message

    group = OneAfterTheOther([ScriptedEngine(random_script(range(5, 30), 1), [1]) for _ in range(2)])
    engine = RayEngine(group, num_ids, WINDOW, 60.0)
    with ended(engine.generate(requests)) as call:
        while not group.counts_sent:
            next(call)
    assert engine.counts() == EngineCounts()
    completions(engine, requests)
    assert engine.counts() == EngineCounts(images=6)


def test_a_cancelled_call_ends_at_the_engine_s_next_answer_and_keeps_nothing(monkeypatch):
    """Its next part, which Ray may give to the worker nevertheless, does nothing; the next call is as ever."""
    closed, cancelled = [], []
    monkeypatch.setattr(engine_worker, "is_cancelled", lambda: bool(cancelled))

    class Engine(RecordingEngine):
        def generate(self, requests):
            try:
                yield from super().generate(requests)
            finally:
                closed.append(len(self.requests))

    engine = Engine(random_script(range(5, 30), 1), [1])
    worker = InProcess([engine]).workers[0]
    requests = [replace(request(f"p{i}", seed=i), images=(ImageRef(f"p{i}", (28, 28)),)) for i in range(6)]
    first, second, *_ = in_parts(requests, WINDOW)
    call = worker.generate(first)
    assert len(next(call)) == 2
    cancelled.append(True)
    assert list(call) == []
    assert (closed, worker._generation) == ([2], None)
    cancelled.clear()
    assert list(worker.generate(second)) == []
    assert len(engine.requests) == 2
    messages = list(worker.generate(in_parts(requests[:1], WINDOW)[0]))
    assert messages[-1] == EngineCounts(images=1)


def test_worker_environment():
    on_cpu, on_gpu = worker_environment(3, "cpu"), worker_environment(3, "cuda")
    assert on_cpu["OMP_NUM_THREADS"] == on_gpu["OMP_NUM_THREADS"] == "3"
    assert on_cpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"  # a killed worker leaves no engine process behind
    assert (on_cpu["TORCH_COMPILE_DISABLE"], on_cpu["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    assert "CUDA_VISIBLE_DEVICES" not in on_gpu
    assert all(isinstance(value, str) for value in on_cpu.values())


def test_what_is_inherited_is_put_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    before = dict(os.environ)
    with inherited(worker_environment(3, "cpu")):
        child = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout
    assert {"OMP_NUM_THREADS=3", "VLLM_NO_USAGE_STATS=1", "CUDA_VISIBLE_DEVICES="} <= set(child.splitlines())
    assert dict(os.environ) == before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_worker_keeps_its_heap_until_it_gives_it_back():
    """80 MiB of blocks of 100 kB are freed: resident memory (MiB) before, with them, after, and when given back."""
    code = (
        "from mars.cluster.environment import trim_heap\n"
        "def resident(): print(int(open('/proc/self/statm').read().split()[1]) * 4 // 1024)\n"
        "resident(); blocks = [b'x' * 100_000 for _ in range(800)]; resident(); del blocks; resident()\n"
        "trim_heap(); resident()"
    )
    environment = {**os.environ, **worker_environment(1, "cpu")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, full, freed, given_back = map(int, done.stdout.split())
    assert full > before + 70
    assert freed > before + 70, "the heap stays"
    assert given_back < before + 10


def test_what_a_call_raises_when_ray_is_lost_becomes_a_lost_worker(monkeypatch):
    """The thread that watches has not noticed yet; outside a command it ends nothing anyway."""
    monkeypatch.setattr(head, "_SIGNAL_FIRST_S", 0.0)

    def call(raylet, is_lost):
        monkeypatch.setattr(head, "head_processes", lambda: {"raylet": raylet})
        with head.watch_head(None):
            if is_lost:
                raylet.kill()
                raylet.wait()
            raise RuntimeError("broken pipe")

    with subprocess.Popen(["sleep", "60"]) as raylet:
        with pytest.raises(RuntimeError, match="broken pipe"):
            call(raylet, is_lost=False)
        with pytest.raises(WorkerError, match=r"Ray's process raylet .* \(killed by SIGKILL\)") as lost:
            call(raylet, is_lost=True)
    assert str(lost.value.__cause__) == "broken pipe"
