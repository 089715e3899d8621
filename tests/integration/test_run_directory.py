"""A run's folder from its start to its export: one writer, a record of each attempt, and resuming only when asked."""

from __future__ import annotations

import base64
import json
import shlex
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from mars.run_dir.attempt import read_attempt, recorded_processes
from mars.run_dir.events import read_events
from mars.run_dir.lock import RunLock
from tests.integration.forked import VLLM_RUN, Forked
from tests.integration.workshop import LOCAL, TIMEOUT_S, Job, Workshop, run, start

HF = (*LOCAL, "rollout=hf", "rollout.num_workers=1", "checkpoint.every=1")


def mars(run_dir: Path, *arguments: str) -> Job:
    """The command, from a folder that is not the run's."""
    return run(["-m", "mars.cli.main", *arguments], run_dir)


def events(run_dir: Path) -> list[tuple[str, int | None]]:
    return [(entry["event"], entry["step"]) for entry in read_events(run_dir)]


@pytest.fixture(scope="module")
def finished(workshop: Workshop, tmp_path_factory) -> Path:
    """A run of two steps. Its data are named relative to the folder in which it was started."""
    home = tmp_path_factory.mktemp("home")
    (home / "rows").symlink_to(workshop.data)
    job = workshop.train(home / "run", *HF, "data.train_files=[rows/train.parquet]", "data.eval_files=[]")
    assert job.returncode == 0, job.stderr
    return job.run_dir


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_records_its_attempt(finished: Path):
    record = read_attempt(finished / "logs" / "attempt_1")
    assert record["overrides"][0] == "experiment=quickstart"
    assert record["working_directory"] == str(finished.parent)
    assert record["functions"]["reward.function"][0]["function"] == "score"
    assert events(finished) == [("started", 0), ("checkpoint_saved", 1), ("checkpoint_saved", 2), ("finished", 2)]
    alive = [process for process, _ in recorded_processes(finished / "logs" / "attempt_1") if process.is_alive()]
    assert alive == []


def test_the_run_can_be_watched(finished: Path):
    """`mars watch` shows the numbers of metrics.jsonl and the newest answers."""
    before = contents(finished)
    job = mars(finished, "watch", str(finished), "--once")
    assert job.returncode == 0, job.stderr
    assert contents(finished) == before
    lines = [line for line in job.stdout.splitlines() if line.strip()]
    shown = {line.split()[0]: line for line in reversed(lines)}  # "reward" is a curve, and further down a stage
    last = Job(0, "", "", finished).metrics[-1]
    assert "finished · step 2 of 2" in job.stdout
    assert "answers of step 1" in job.stdout  # the others are not recorded: tracking.rollouts_every=10
    for name, key in (("reward", "critic/score/mean"), ("gain", "mars/gain/mean")):
        assert float(shown[name].split()[1]) == pytest.approx(last[key], rel=0.01)
    assert shown["gen"].split()[1] == f"{last['timing_s/gen']:.2f}s" or last["timing_s/gen"] >= 10
    assert job.stdout.splitlines()[-1] == "finished after step 2"


def test_a_second_run_in_the_folder_changes_nothing(workshop: Workshop, finished: Path):
    before = contents(finished)
    with RunLock(finished) as lock:
        lock.take()
        held = contents(finished)
        job = workshop.train(finished, *HF, "run.resume=true")
        assert (job.returncode, "is writing to" in job.stderr) == (73, True)
        assert contents(finished) == held
    refused = workshop.train(finished, *HF)
    assert (refused.returncode, f"mars resume {finished}" in refused.stderr) == (2, True)
    after = contents(finished)
    assert {name for name in after if after[name] != before.get(name)} <= {"LOCK"}


def test_an_exported_checkpoint_is_the_saved_policy(finished: Path, tmp_path: Path):
    before = contents(finished)
    for given in (finished, finished / "checkpoints" / "step_000002"):
        out = tmp_path / given.name
        job = mars(finished.parent / "elsewhere", "ckpt", "export", str(given), str(out))
        assert job.returncode == 0, job.stderr
        assert contents(out) == contents(finished / "policy")
    assert contents(finished) == before


@pytest.mark.slow
def test_vllm_serves_a_merged_checkpoint(finished: Path, workshop: Workshop, tmp_path: Path):
    merged = mars(tmp_path / "x", "ckpt", "export", str(finished), str(tmp_path / "merged"), "--json")
    assert merged.returncode == 0, merged.stderr
    result = json.loads(merged.stdout)
    assert (result["step"], result["folder"]) == (2, str(tmp_path / "merged"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _, *serve = shlex.split(result["serve"])  # without "python"
    small = ["--enforce-eager", "--max-num-seqs=2", f"--kv-cache-memory-bytes={2**26}"]
    server = start([*serve, f"--port={port}", *small], tmp_path, tmp_path, VLLM_RUN)
    try:
        answer = ask(f"http://127.0.0.1:{port}", server, sorted((workshop.data / "scenes").rglob("*.png"))[:2])
    finally:
        server.kill()
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens"] > 20


def ask(url: str, server: Forked, images: list[Path]) -> dict:
    """Wait until the server is ready, then ask it a question with these images."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        assert server.wait(0) is None, server.stderr[-3000:]
        assert time.monotonic() < end, server.stderr[-3000:]
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    (model,) = json.load(urllib.request.urlopen(f"{url}/v1/models", timeout=30))["data"]
    shown = [base64.b64encode(image.read_bytes()).decode() for image in images]
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in shown]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": "Where is the person?"}]}
    body = {"model": model["id"], "messages": [message], "max_tokens": 8, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return json.load(response)


def test_a_finished_run_trains_on_from_any_folder_when_it_gets_more_steps(finished: Path, tmp_path: Path):
    before = contents(finished / "policy")
    job = mars(tmp_path / "x", "resume", str(finished))
    assert (job.returncode, "the run is complete: step 2 was its last" in job.stderr) == (0, True)
    assert contents(finished / "policy") == before
    assert not (finished / "logs" / "attempt_2").exists()
    job = mars(tmp_path / "x", "resume", str(finished), "run.num_steps=3")
    assert job.returncode == 0, job.stderr
    assert [json.loads(line)["step"] for line in (finished / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert events(finished)[4:] == [("resumed", 2), ("checkpoint_saved", 3), ("finished", 3)]
    assert read_attempt(finished / "logs" / "attempt_2")["resume"] is True
    (shown,) = json.loads(mars(finished, "runs", "ls", str(finished), "--json").stdout)
    assert (shown["state"], shown["step"], shown["last_step"]) == ("finished", 3, 3)
