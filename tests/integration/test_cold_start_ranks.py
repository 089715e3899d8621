"""Two and three ranks of a cold start compute what one does; three go on from the checkpoint of two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.forked import RUN
from tests.integration.workshop import run, start
from tests.unit.test_docs_metrics import undocumented

JOB = Path(__file__).with_name("cold_start_job.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model and rows for it."""
    from mars.data.synthetic.tiny_model import build_tiny

    folder = tmp_path_factory.mktemp("ranks")
    build_tiny(folder / "policy", seed=3)
    noise, rows = np.random.default_rng(11), []
    for i, size in enumerate([(64, 48), (56, 56), (96, 40)]):
        Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for i in range(8):
        images = [f"{k}.png" for k in range(i % 3)]
        own = {"view_1": "one " * (i + 1), "view_2": "two"} if len(images) == 2 else None
        rows.append({"prompt": "<image>" * len(images) + f"Picture {i}?", "images": images, "answer": "yes",
                     "response": f"<answer>{i}</answer>" + " yes" * (5 * (i % 4)), "mono_responses": own})  # fmt: skip
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def results(folder) -> dict[int, list[dict]]:
    """Number of ranks -> what each of them wrote."""
    found = {}
    for size in (1, 2, 3):
        ranks = []
        for rank in range(size):
            output = folder / f"output-{rank}"
            output.mkdir(exist_ok=True)
            ranks.append(start([str(JOB), str(folder), str(rank), str(size)], folder, output, RUN))
        for rank in ranks:
            assert rank.finish(200) == 0, rank.stderr[-3000:]
        found[size] = [json.loads((folder / f"{size}-{rank}.json").read_text()) for rank in range(size)]
    return found


def test_the_steps_of_two_ranks_are_those_of_one(results):
    (one,), two = results[1], results[2]
    assert two[0] == two[1]
    assert len(one["metrics"]) == 3
    for ours, theirs in zip(two[0]["metrics"], one["metrics"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_three_ranks_go_on_from_the_checkpoint_of_two(results):
    (one,), three = results[1], results[3]
    assert three[0] == three[1] == three[2]
    assert three[0]["metrics"][0] == pytest.approx(one["metrics"][2], rel=1e-5)


def test_every_rank_has_the_losses_of_all_held_out_rows_and_views(results):
    (one,) = results[1]
    assert len(one["held_out"]) == 8 + 2 * 2  # rows, and the two views of two rows
    for size in (2, 3):
        assert results[size][0]["held_out"] == pytest.approx(one["held_out"], rel=1e-5)


def test_a_lost_rank_on_ray_costs_no_step(folder, tmp_path, results):
    """It dies before its third update, and is built again from the checkpoint after the second."""
    (tmp_path / "once").mkdir()
    settings = [
        f"model.path={folder / 'policy'}", "model.dtype=float32", f"data.train_files=[{folder / 'train.jsonl'}]",
        f"data.eval_files=[{folder / 'train.jsonl'}]", "data.template=none", "data.min_image_pixels=784",
        "data.max_image_pixels=50176", "cluster.device=cpu", "sft.batch_size=5", "sft.mono_ratio=0.5",
        "sft.tokens_per_forward=60", "sft.learning_rate=3.0e-3", "sft.warmup_steps=0", "sft.log_every=1",
        "run.num_steps=3", "checkpoint.every=1", "tracking.wandb=off", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    fault = {"MARS_FAULT": "actor.before_update:kill@3", "MARS_FAULT_ONCE": str(tmp_path / "once")}
    job = run(["-m", "mars.sft", *settings], tmp_path / "run", **fault)
    assert job.returncode == 0, job.stderr[-3000:]
    (one,) = results[1]
    keys = one["metrics"][0].keys()
    assert [{key: row[key] for key in keys} for row in job.metrics] == one["metrics"]
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event != "checkpoint_saved"] == [
        "started", "worker_lost", "worker_replaced", "trainer_rebuilt", "finished",
    ]  # fmt: skip
    assert not undocumented({key for row in job.metrics for key in row} - {"step"})
