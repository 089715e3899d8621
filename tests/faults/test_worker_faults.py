"""Runs on Ray with vLLM whose driver, engines and ranks die, stop or fail: they compute what they would have anyway."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.run_dir.attempt import recorded_processes
from mars.run_dir.events import read_events
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from tests.faults.test_resume import ALGORITHMS, rows, weights
from tests.integration.workshop import LOCAL, Workshop

SMALL = (
    *ALGORITHMS["dapo"], "data.prompts_per_step=2", "actor.prompts_per_update=2", "rollout.samples_per_prompt=2",
    "rollout.max_response_tokens=8", "run.num_steps=3", "checkpoint.every=1", "actor.num_workers=2",
    "run.seed=3",  # carries a prompt from the first step
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(workshop: Workshop, tmp_path_factory) -> Path:
    job = workshop.train(tmp_path_factory.mktemp("whole") / "run", *SMALL)
    assert job.returncode == 0, job.stderr[-3000:]
    return job.run_dir


@pytest.fixture(scope="module")
def killed(workshop: Workshop, tmp_path_factory) -> Path:
    """The folder of a run whose driver was killed after step 1 was saved."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARS_FAULT", "checkpoint.before_latest:kill")
        job = workshop.train(run_dir, *SMALL)
    assert job.returncode == -signal.SIGKILL, job.stderr[-3000:]
    return run_dir


def copied(run_dir: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run_dir, folder / "run"))


def test_undisturbed_runs_lose_nothing(undisturbed):
    assert rows(undisturbed)[0]["mars/prompts_carried"] > 0, "so the tests below are about a state with carried prompts"
    events = [entry["event"] for entry in read_events(undisturbed)]
    assert events == ["started", *["checkpoint_saved"] * 3, "finished"]
    assert {row["fault/engine_restarts"] for row in read_metrics(undisturbed / METRICS_FILE).rows} == {0}


def test_a_killed_driver_leaves_the_checkpoint_that_was_renamed(killed):
    assert Catalogue(killed / CHECKPOINTS_FOLDER).steps() == [1]


def test_lost_engines_and_ranks_change_nothing(workshop, undisturbed, killed, tmp_path, monkeypatch):
    """One engine dies while it samples and one while it takes weights, one fails there, a stopped one misses its
    deadline; one rank dies before an update, one after, one while it writes its shards of the last checkpoint."""
    faults = ("engine.load_weights:kill@1", "engine.samples:kill@2", "engine.load_weights:raise@3",
              "engine.samples:stop@3", "actor.before_update:kill@1", "actor.after_update:kill@1",
              "actor.shard_written:kill@2")  # fmt: skip
    once = tmp_path / "once"
    once.mkdir()
    monkeypatch.setenv("MARS_FAULT", ",".join(faults))
    monkeypatch.setenv("MARS_FAULT_ONCE", str(once))
    job = workshop.train(
        copied(killed, tmp_path), *SMALL, "rollout.num_workers=2", "run.resume=true", "cluster.call_timeout_s=15"
    )
    assert job.returncode == 0, job.stderr[-3000:]
    assert {path.name for path in once.iterdir()} == set(faults)
    assert rows(job.run_dir) == rows(undisturbed)
    assert weights(job.run_dir) == weights(undisturbed)
    events = [entry["event"] for entry in read_events(job.run_dir)]
    assert events.count("trainer_rebuilt") >= 3
    assert events.count("worker_lost") >= 7
    assert events.count("worker_replaced") >= 4 + 3 * 2
    assert job.metrics[-1]["fault/engine_restarts"] >= 1
    alive = [process for process, _ in recorded_processes(job.run_dir / "logs" / "attempt_2") if process.is_alive()]
    assert alive == []


def test_weights_that_are_broadcast_arrive_whole_or_are_sent_again(workshop, undisturbed, tmp_path, monkeypatch):
    """In the middle of a send one engine dies, one fails, one stops, rank 0 dies, and rank 0 stops. Engine and trainer
    agree on log-probs as they do where nothing is lost and the weights come by the object store."""
    faults = ("weights.bucket_received:kill@3", "weights.bucket_received:raise@9", "weights.bucket_sent:stop@12",
              "weights.bucket_sent:kill@14", "weights.bucket_received:stop@16")  # fmt: skip
    once = tmp_path / "once"
    once.mkdir()
    monkeypatch.setenv("MARS_FAULT", ",".join(faults))
    monkeypatch.setenv("MARS_FAULT_ONCE", str(once))
    broadcast = ("rollout.weight_transfer=broadcast", "rollout.weight_bucket_bytes=500000", "rollout.num_workers=2")
    job = workshop.train(tmp_path / "run", *SMALL, *broadcast, "cluster.call_timeout_s=15")
    assert job.returncode == 0, job.stderr[-3000:]
    assert {path.name for path in once.iterdir()} == set(faults)
    assert rows(job.run_dir) == rows(undisturbed)
    assert weights(job.run_dir) == weights(undisturbed)
    events = [entry["event"] for entry in read_events(job.run_dir)]
    assert events.count("trainer_rebuilt") >= 2
    assert job.metrics[-1]["fault/engine_restarts"] >= 2


def test_a_run_goes_on_with_one_rank_and_with_two_again(workshop, undisturbed, killed, tmp_path):
    """One rank: in one process with the engine. Its gradient differs from that of two by rounding."""
    run_dir = copied(killed, tmp_path)
    fewer = workshop.train(run_dir, *SMALL, *LOCAL, "run.resume=true", "run.num_steps=2")
    assert fewer.returncode == 0, fewer.stderr[-3000:]
    assert "actor.num_workers: 2 -> 1" in fewer.stderr
    again = workshop.train(run_dir, *SMALL, "run.resume=true")
    assert again.returncode == 0, again.stderr[-3000:]
    for row, expected in zip(rows(run_dir), rows(undisturbed), strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for key in ("step", "data/epoch", "actor/lr", "prompt_length/mean", "mars/prompts_sampled", "anchor/tokens"):
            assert row[key] == expected[key]
    found, wanted = (load_file(path / "policy" / "model.safetensors") for path in (run_dir, undisturbed))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
