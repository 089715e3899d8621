"""Ranks in any number and in any groups train as one does: also one with text alone, and those with no row at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.integration.forked import RUN
from tests.integration.ranks_job import WAYS, batch_of, images_in, settings_of, weights
from tests.integration.ranks_job import __file__ as job_file
from tests.integration.workshop import start
from tests.tiny_world import distance

# Name -> ranks, whose checkpoint is resumed from, settings. 3 ranks hold unequal numbers of rows, and some hold none.
JOBS = {
    "one": (1, "one", []),
    "three": (3, "one", []),
    "two": (2, "three", []),
    "groups": (4, "one", ["fsdp_size=2", 'offload="cpu"']),
}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "policy").symlink_to(tiny)
    noise = np.random.default_rng(11)
    for i, (width, height) in enumerate([(64, 48), (56, 56)]):
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for name, (num_ranks, other, settings) in JOBS.items():
        ranks = []
        for rank in range(num_ranks):
            output = folder / f"output-{rank}"
            output.mkdir(exist_ok=True)
            command = [job_file, str(folder), name, str(rank), str(num_ranks), other, *settings]
            ranks.append(start(command, folder, output, RUN))
        for rank in ranks:
            assert rank.finish(200) == 0, rank.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def metrics(folder):
    return {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(num_ranks)]
        for name, (num_ranks, *_) in JOBS.items()
    }


@pytest.fixture(scope="module")
def states(folder):
    """(job, way, when) -> the weights."""
    found = {}
    for name in JOBS:
        for way in WAYS:
            for key, value in load_file(folder / f"{name}-{way}.safetensors").items():
                when, _, weight = key.partition(".")
                found.setdefault((name, way, when), {})[weight] = value
    return found


def differences(one: dict, other: dict) -> dict:
    return {name: one[name] - value for name, value in other.items()}


def assert_same_change(found: dict, wanted: dict, before: dict) -> None:
    """Sums over ranks round differently: 1e-7 of a gradient. AdamW makes more of it where a gradient is nearly 0."""
    changed, changed_as_wanted = differences(found, before), differences(wanted, before)
    assert sum(bool(value.any()) for value in changed_as_wanted.values()) > 10
    assert distance(changed, changed_as_wanted) < 1e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("job", ["two", "three", "groups"])
def test_weights_and_metrics_are_those_of_one_rank(folder, metrics, states, tiny, job, way):
    ours, (one,) = metrics[job], metrics["one"]
    assert all(rank[way] == ours[0][way] for rank in ours)
    for step in range(2):
        assert ours[0][way][step] == pytest.approx(one[way][step], rel=1e-5, abs=1e-9)
        assert one[way][step]["actor/grad_norm"] > 0.1
    start = full_state_of(tiny)
    for when in ("first", "second"):
        assert_same_change(states[job, way, when], states["one", way, when], start)


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_is_resumed_by_other_groups_of_ranks(folder, states, world, way):
    """By 2 x 2 and by three ranks from that of one rank, by two from that of three, and by one from that of 2 x 2."""
    start, wanted = states["one", way, "first"], states["one", way, "second"]
    for job in JOBS:
        assert_same_change(states[job, way, "resumed"], wanted, start)
    config = settings_of(world, way, num_workers=1)
    trainer = world.trainer_of(config, world.processor.process)
    trainer.load_checkpoint(str(folder / f"groups-{way}"))
    trainer.update(batch_of(world, images_in(folder), 1))
    assert_same_change(weights(trainer), wanted, start)


def test_bfloat16_is_for_the_forward_alone(metrics):
    """Its weights are gathered in bfloat16. Gradients are reduced, and weights and AdamW's moments kept, in float32."""
    for rank in metrics["groups"]:
        found = rank["precision"]
        assert found["computes with"] == found["all_gather_single"] == ["torch.bfloat16"]
        assert found["reduce_scatter_single"] == ["torch.float32"]
        assert "torch.float32" in found["all_reduce"], "gradients, between the groups"
        assert "torch.bfloat16" not in found["all_reduce"]
        assert found["keeps"] == ["torch.float32"]


def full_state_of(model: Path) -> dict:
    """The weights of a model's folder under the names that the trainer uses."""
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    return {name: value.detach() for name, value in plain.state_dict().items()}
