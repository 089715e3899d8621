"""The diamond: a run that is killed and resumed is, bit for bit, the run that nobody disturbed.

Here engine and trainer live in one process (cluster=local); test_worker_faults.py does the same with Ray and vLLM.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyarrow import parquet

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.checkpoint.manifest import MANIFEST_FILE
from mars.run_dir.events import read_events
from tests.integration.workshop import LOCAL, REWARDS, TIMEOUT_S, Workshop, start

SMALL = ("data.prompts_per_step=2", "actor.prompts_per_update=2", "rollout.samples_per_prompt=2",
         "rollout.max_response_tokens=8", "run.num_steps=4", "checkpoint.every=1")  # fmt: skip
HF = (*LOCAL, "rollout=hf", "rollout.num_workers=1")
ALGORITHMS = {
    # An evaluation whose row is still to come is part of the state.
    "grpo": ("algorithm=grpo", "anchor=mono", "evaluation.every=2", "data.shuffle=true"),
    "dapo": ("algorithm=dapo", "anchor=mono", "algorithm.overlong_buffer_tokens=4", "data.eval_files=[]",
             f"reward.function='{REWARDS}:rare'"),
}  # fmt: skip
# Where a run and those that resume it are killed, one after another, until one ends. The first kill leaves step 1.
KILLS = (
    "checkpoint.before_latest", "checkpoint.started", "actor.shard_written", "checkpoint.shards_written",
    "checkpoint.before_manifest", "checkpoint.before_rename", "step.samples", "step.sampled", "step.updated",
    "step.logged",
)  # fmt: skip
UNCOMPARED = ("timing_s/", "perf/", "fault/")


@dataclass(frozen=True)
class Ended:
    """exit_code: -number for a signal."""

    run_dir: Path
    exit_code: int
    stderr: str


@dataclass(frozen=True)
class Runs:
    """Starts runs of this file's settings."""

    workshop: Workshop

    def __call__(
        self, run_dir: Path, *overrides: str, fault: str = "", when_stopped: signal.Signals | None = None
    ) -> Ended:
        """when_stopped: sent to the run where its fault has stopped it, before it goes on."""
        output = run_dir.with_name(f"{run_dir.name}.output")
        output.mkdir(exist_ok=True)
        arguments = ["-m", "mars.main", *self.workshop.overrides(), *HF, *SMALL, f"run.dir='{run_dir}'", *overrides]
        process = start(arguments, run_dir.parent, output, **({"MARS_FAULT": fault} if fault else {}))
        code = process.wait(TIMEOUT_S)
        if code is None and when_stopped is not None:
            os.kill(process.pid, when_stopped)
            os.kill(process.pid, signal.SIGCONT)
            code = process.wait(TIMEOUT_S)
        assert code is not None, process.stderr
        return Ended(run_dir, code, process.stderr)


@pytest.fixture(scope="module")
def runs(workshop: Workshop) -> Runs:
    return Runs(workshop)


@pytest.fixture(scope="module")
def undisturbed(runs: Runs, tmp_path_factory) -> Callable[[str], Path]:
    """Algorithm -> the folder of its run of four steps."""
    done: dict[str, Path] = {}

    def of(algorithm: str) -> Path:
        if algorithm not in done:
            done[algorithm] = tmp_path_factory.mktemp(algorithm) / "run"
            ended = runs(done[algorithm], *ALGORITHMS[algorithm])
            assert ended.exit_code == 0, ended.stderr
        return done[algorithm]

    return of


def rows(run_dir: Path) -> list[dict]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(UNCOMPARED)} for row in found]


def weights(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "policy" / "model.safetensors").read_bytes()).hexdigest()


def resumed_equal(runs: Runs, run_dir: Path, algorithm: str, undisturbed: Path) -> None:
    ended = runs(run_dir, *ALGORITHMS[algorithm], "run.resume=true")
    assert ended.exit_code == 0, ended.stderr
    assert rows(run_dir) == rows(undisturbed)
    assert weights(run_dir) == weights(undisturbed)


def saved_steps(run_dir: Path) -> list[int]:
    return Catalogue(run_dir / CHECKPOINTS_FOLDER).steps()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_that_is_killed_again_and_again_is_as_if_it_had_not_been(runs, undisturbed, tmp_path, algorithm):
    whole = undisturbed(algorithm)
    for point in KILLS:
        resume = f"run.resume={(tmp_path / 'run').exists()}"
        killed = runs(tmp_path / "run", *ALGORITHMS[algorithm], resume, fault=f"{point}:kill")
        assert killed.exit_code == -signal.SIGKILL, (point, killed.stderr)
        assert saved_steps(killed.run_dir) in ([1], [1, 2] if point == "checkpoint.started" else [1]), point
        assert rows(killed.run_dir) == rows(whole)[: len(rows(killed.run_dir))], point
    resumed_equal(runs, killed.run_dir, algorithm, whole)
    assert [path.name for path in (killed.run_dir / CHECKPOINTS_FOLDER).glob(".tmp*")] == []


def test_dynamic_sampling_carries_a_prompt_from_the_first_step(undisturbed):
    """So the tests above and below are about a state with carried prompts."""
    assert rows(undisturbed("dapo"))[0]["mars/prompts_carried"] > 0


@pytest.mark.parametrize(
    ("where", "placement"), [("sampling", "separate"), ("update", "separate"), ("sampling", "colocated")]
)
def test_a_signal_saves_and_the_resumed_run_is_equal(runs, undisturbed, tmp_path, where, placement):
    """While it samples, the step is abandoned; while it updates the policy, the step is finished first. With
    placement=colocated the checkpoint is of a trainer in host memory, while the engine is in the middle of a call."""
    whole = undisturbed("dapo")
    samples_before = 4 * rows(whole)[0]["mars/prompts_sampled"]
    fault, step = (f"step.samples:stop@{samples_before + 1}", 1) if where == "sampling" else ("step.updated:stop@2", 2)
    stopped = runs(
        tmp_path / "run",
        *ALGORITHMS["dapo"],
        "checkpoint.every=100",
        f"cluster.placement={placement}",
        fault=fault,
        when_stopped=signal.SIGTERM,
    )
    assert stopped.exit_code == 75, stopped.stderr
    assert "interrupted by SIGTERM; to go on: mars resume " in stopped.stderr
    assert saved_steps(stopped.run_dir) == [step]
    assert read_events(stopped.run_dir)[-1]["event"] == "interrupted"
    resumed_equal(runs, stopped.run_dir, "dapo", whole)


def copied(run_dir: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run_dir, folder / "run"))


def test_a_run_that_ended_with_an_epoch_trains_on_in_the_next(runs, tmp_path):
    until = (*ALGORITHMS["grpo"], "data.prompts_per_step=6", "actor.prompts_per_update=6", "evaluation.every=0")
    whole = runs(tmp_path / "whole", *until, "run.num_steps=null", "run.num_epochs=2")
    first = runs(tmp_path / "run", *until, "run.num_steps=null", "run.num_epochs=1")
    assert (whole.exit_code, first.exit_code) == (0, 0), first.stderr
    assert [row["data/epoch"] for row in rows(first.run_dir)] == [0.5, 1.0]
    ended = runs(tmp_path / "run", *until, "run.num_steps=null", "run.num_epochs=2", "run.resume=true")
    assert "run.num_epochs: 1 -> 2" in ended.stderr
    assert [row["data/epoch"] for row in rows(ended.run_dir)] == [0.5, 1.0, 1.5, 2.0]
    assert (rows(ended.run_dir), weights(ended.run_dir)) == (rows(whole.run_dir), weights(whole.run_dir))


def test_a_finished_run_says_so(runs, undisturbed, tmp_path):
    run_dir = copied(undisturbed("dapo"), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "policy").iterdir()}
    ended = runs(run_dir, *ALGORITHMS["dapo"], "run.resume=true")
    assert (ended.exit_code, "the run is complete: step 4 was its last" in ended.stderr) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "policy").iterdir()} == before


def test_settings_that_change_are_refused_warned_of_or_shown(runs, undisturbed, tmp_path):
    run_dir = copied(undisturbed("grpo"), tmp_path)
    refused = runs(run_dir, *ALGORITHMS["grpo"], "run.resume=true", "run.seed=5", "data.prompts_per_step=4")
    assert refused.exit_code == 2
    assert "run.seed: 0 -> 5" in refused.stderr
    assert "data.prompts_per_step: 2 -> 4" in refused.stderr
    accepted = runs(
        run_dir, *ALGORITHMS["grpo"], "run.resume=true", "run.num_steps=5", "actor.learning_rate=1e-4",
    )  # fmt: skip
    assert accepted.exit_code == 0
    assert "WARNING resuming with another setting, which changes the training" in accepted.stderr
    assert "actor.learning_rate: 0.0003 -> 0.0001" in accepted.stderr
    assert "INFO resuming with another setting: run.num_steps: 4 -> 5" in accepted.stderr
    assert "run.resume:" not in accepted.stderr
    assert len(rows(run_dir)) == 5


def test_damaged_checkpoints_are_named_and_left_out(runs, undisturbed, tmp_path):
    run_dir = copied(undisturbed("dapo"), tmp_path)
    assert saved_steps(run_dir) == [3, 4]
    (newest,) = (run_dir / CHECKPOINTS_FOLDER / "step_000004" / "trainer").glob("*.safetensors")
    flip_a_byte(newest)
    abandoned = [
        run_dir / name for name in ("rollouts/step_000099.jsonl", "evaluation/step_000099.json", "report.html")
    ]
    for path in abandoned:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    more = ("run.resume=true", "run.num_steps=4")
    ended = runs(run_dir, *ALGORITHMS["dapo"], *more)
    assert ended.exit_code == 0, ended.stderr
    assert f"a damaged checkpoint is left out: {newest}: its content has changed since it was written" in ended.stderr
    assert [path for path in abandoned if path.exists()] == []
    assert "LATEST named step_000004; it names step_000003 now" in ended.stderr
    assert rows(run_dir) == rows(undisturbed("dapo"))
    assert weights(run_dir) == weights(undisturbed("dapo"))
    files = [run_dir / CHECKPOINTS_FOLDER / f"step_{step:06d}" / "state.json" for step in saved_steps(run_dir)]
    for file in files:
        flip_a_byte(file)
    ended = runs(run_dir, *ALGORITHMS["dapo"], "run.resume=true", "run.num_steps=6")
    assert ended.exit_code == 7
    assert [file for file in files if str(file) not in ended.stderr] == []
    assert rows(run_dir) == rows(undisturbed("dapo")), "nothing is lost"


def test_a_checkpoint_of_another_format_is_refused_with_its_name(runs, undisturbed, tmp_path):
    run_dir = copied(undisturbed("dapo"), tmp_path)
    manifests = [rewrite_format(run_dir / CHECKPOINTS_FOLDER / f"step_{step:06d}") for step in (3, 4)]
    ended = runs(run_dir, *ALGORITHMS["dapo"], "run.resume=true", "run.num_steps=6")
    assert ended.exit_code == 7
    assert all(f"{manifest}: written in another format" in ended.stderr for manifest in manifests)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rewrite_format(folder: Path) -> Path:
    """Make a checkpoint's manifest one of format 0, with a checksum that fits."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_bytes())
    del content["manifest_sha256"]
    content["format"] = 0
    content["manifest_sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))
    return path


# --- images that are lost


@pytest.fixture(scope="module")
def spoilt(workshop: Workshop, tmp_path_factory) -> tuple[str, ...]:
    """Settings of a run that meets an image with a fine header and no pixels in step 2, and one in its evaluation."""
    data = Path(shutil.copytree(workshop.data, tmp_path_factory.mktemp("spoilt") / "data"))
    for name, row in (("train", 2), ("test", 0)):
        image = parquet.read_table(data / f"{name}.parquet", columns=["images"])["images"][row].as_py()[0]
        flip_a_byte(data / (image["path"] if isinstance(image, dict) else image))
    return (
        f"data.image_root='{data}'", "data.decode_at_start=false", "data.shuffle=false", "run.num_steps=3",
        "evaluation.every=3", "evaluation.max_samples=2",
    )  # fmt: skip


def test_a_lost_image_costs_its_prompt_and_a_resumed_run_knows_it(runs, spoilt, tmp_path):
    """Step 2 is lost with the driver and repeated, but the prompt that it found is one event."""
    whole = runs(tmp_path / "whole", *ALGORITHMS["grpo"], *spoilt)
    assert whole.exit_code == 0, whole.stderr
    assert [row["data/quarantined"] for row in rows(whole.run_dir)] == [0, 1, 1]
    assert [row["mars/prompts_kept"] for row in rows(whole.run_dir)] == [2, 1, 2]
    assert [row.get("eval/unreadable") for row in rows(whole.run_dir)] == [None, None, 1]
    events = {entry["event"]: entry for entry in read_events(whole.run_dir)}
    lost = events["prompt_quarantined"]["details"]
    assert (lost["row"].endswith("train.parquet:2"), "cannot be decoded" in lost["reason"]) == (True, True)
    assert f"{lost['row']}: left out from step 2 on: {lost['reason']}" in whole.stderr
    (question,) = events["evaluation_incomplete"]["details"]["unreadable"].values()
    assert f"{question}; the question is left out" in whole.stderr
    killed = runs(tmp_path / "run", *ALGORITHMS["grpo"], *spoilt, fault="step.logged:kill@2")
    assert killed.exit_code == -signal.SIGKILL, killed.stderr
    ended = runs(tmp_path / "run", *ALGORITHMS["grpo"], *spoilt, "run.resume=true")
    assert ended.exit_code == 0, ended.stderr
    assert (rows(ended.run_dir), weights(ended.run_dir)) == (rows(whole.run_dir), weights(whole.run_dir))
    assert [entry["event"] for entry in read_events(ended.run_dir)].count("prompt_quarantined") == 1


def test_without_a_bad_prompt_allowed_the_first_ends_the_run(runs, spoilt, tmp_path):
    ended = runs(tmp_path / "run", *ALGORITHMS["grpo"], *spoilt, "data.max_bad_fraction=0")
    assert ended.exit_code == 3
    assert "cannot be read, and data.max_bad_fraction=0 allows 0; events.jsonl names them all" in ended.stderr
    events = [entry["event"] for entry in read_events(ended.run_dir)]
    assert events[-1] == "failed", "the checkpoint of step 1 is written until then"
    assert [event for event in events if event != "checkpoint_saved"][-2:] == ["prompt_quarantined", "failed"]
