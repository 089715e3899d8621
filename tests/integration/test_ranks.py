"""Any number of ranks, in any groups, trains like one rank: also a rank with text alone, and ranks with no row at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.integration.forked import RUN
from tests.integration.ranks_job import WAYS
from tests.integration.ranks_job import __file__ as job
from tests.integration.workshop import start
from tests.tiny_world import distance

# Name -> ranks, and settings.
JOBS = {
    "one": (1, []),
    "three": (3, []),
    "two_groups": (4, ["fsdp_size=2"]),
}
SEVERAL = [name for name in JOBS if name != "one"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "policy").symlink_to(tiny)
    noise = np.random.default_rng(11)
    for i, (width, height) in enumerate([(64, 48), (56, 56)]):
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for name, (num_ranks, settings) in JOBS.items():
        ranks = []
        for rank in range(num_ranks):
            output = folder / f"output-{rank}"
            output.mkdir(exist_ok=True)
            command = [job, str(folder), name, str(rank), str(num_ranks), *settings]
            ranks.append(start(command, folder, output, RUN))
        for rank in ranks:
            assert rank.finish(200) == 0, rank.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def metrics(folder):
    return {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(num_ranks)]
        for name, (num_ranks, _) in JOBS.items()
    }


def test_p(folder, metrics):
    for name in SEVERAL:
        for way in WAYS:
            one, several = (load_file(folder / f"{n}-{way}.safetensors") for n in ("one", name))
            for when in ("first", "second", "again"):
                a, b = ({k: v for k, v in w.items() if k.startswith(when + ".")} for w in (one, several))
                print(name, way, when, distance(b, a), max(float((a[k] - b[k]).abs().max()) for k in a))
            m1, m2 = metrics["one"][0][way], metrics[name][0][way]
            for i in range(2):
                print(max((abs(m2[i][k] - m1[i][k]) / max(abs(m1[i][k]), 1e-9), k, m1[i][k]) for k in m1[i]))
