"""What it costs to send images to the nodes of a cluster, compared with files that every node has.

    python scripts/bench.py images > bench_images.json
    python scripts/bench.py images --rounds 5 --images 64 --side 896 --trainings 0

There are two Ray nodes on this machine. First, two processes on the node without the driver read and decode images in
turns: one from files, the other from its node's `ImageStore`, which has the sent images. Then whole trainings of two
epochs run on both nodes, in turns with data.transport=path and object_store. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from scripts.bench.launch import make_workload, say
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.summary import rounded
from scripts.bench.training import Job, run_job
from scripts.bench.workload import rows_file

WAYS = ("path", "object_store")
SOURCES = 2
PROMPTS_PER_STEP = 8
STEPS_PER_EPOCH = 3
PAIRS = 8  # how often all images are read as files and from the store, in turns
TIMEOUT = 900.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trainings", type=int, help="rounds of trainings; default: --rounds")
    parser.add_argument("--images", type=int, default=48, help="images that are only read")
    parser.add_argument("--side", type=int, default=448, help="pixels of their sides")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, two_nodes(Path(name)) as (address, other):
        folder = Path(name)
        reading = [read(folder, other, options.images, options.side) for _ in range(options.rounds)]
        say(json.dumps(rounded({"reading": reading}, digits=5)))
        trainings: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        num_trainings = options.rounds if options.trainings is None else options.trainings
        if num_trainings:
            make_workload(folder / "work", PROMPTS_PER_STEP * STEPS_PER_EPOCH, [(SOURCES, 112)])
        for number in range(num_trainings):
            for way in WAYS:
                say(f"training {number + 1}, {way}")
                trainings[way].append(train(folder / "work", f"{way}_{number}", way, address))
    report = {
        "settings": vars(options),
        "machine": machine_facts() | {"cpu_busy_at_end": busy_share()},
        "reading": reading,
        "training": trainings,
        "training_ratios": ratios(trainings),
    }
    sys.stdout.write(json.dumps(rounded(report, digits=5), indent=2) + "\n")
    return 0


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[str, str]]:
    """A cluster that this process has joined. Yields its address, and Ray's id of the node without the driver."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(32))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 128 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        other = cluster.add_node(num_cpus=1, object_store_memory=128 * 2**20)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster.address, other.node_id
    finally:
        ray.shutdown()
        cluster.shutdown()


def read(folder: Path, node: str, number: int, side: int) -> dict[str, Any]:
    """Seconds per image to read and decode it on `node`.

    first_file: from a file, the first time. file: from a file, later. sent: the first time, when the reader on the
    driver's node sends the image. kept: later, from the store of `node`. file and kept: medians of `PAIRS` readings.
    kept/file: their ratio. file_cpu, kept_cpu: processor time of the process that decodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mars.cluster.image_shipping import READER_THREADS, ImageReader, start_on
    from mars.cluster.worker_images import ImageAccess

    images = write_images(Path(tempfile.mkdtemp(dir=folder)), number, side)
    here, logs = ray.get_runtime_context().get_node_id(), str(folder / "logs")
    reader = start_on(here, ImageReader, {}, READER_THREADS).remote("image-reader", logs, 2**30, {})
    there = ray.remote(_Decoder).options(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    access = {way: ImageAccess(None, source, False, 60.0) for way, source in zip(WAYS, (None, reader), strict=True)}
    decoders = {way: there.remote(access[way]) for way in WAYS}
    found: dict[str, Any] = {"bytes_per_image": sum(os.path.getsize(image.path) for image in images) / number}
    ray.get([decoder.seconds.remote(images[:1]) for decoder in decoders.values()])  # also starts the store
    number -= 1

    def seconds(way: str) -> tuple[float, float]:
        wall, cpu = ray.get(decoders[way].seconds.remote(images[1:]))
        return wall / number, cpu / number

    found["first_file"], found["sent"] = seconds("path")[0], seconds("object_store")[0]
    pairs = [(seconds("path"), seconds("object_store")) for _ in range(PAIRS)]
    for i, suffix in enumerate(("", "_cpu")):
        for j, name in enumerate(("file", "kept")):
            found[name + suffix] = median(pair[j][i] for pair in pairs)
        found["kept/file" + suffix] = found["kept" + suffix] / found["file" + suffix]
    ray.get(reader.close.remote())
    for actor in (reader, *decoders.values()):
        ray.kill(actor)
    return found


class _Decoder:
    """Decodes images in a process of its own."""

    def __init__(self, access: Any) -> None:
        self._images = access.open()

    def seconds(self, images: Sequence[Any]) -> tuple[float, float]:
        """Decode the images. Returns the seconds by the clock and the seconds of this process's processor time."""
        start, cpu = time.perf_counter(), time.process_time()
        self._images.expect(images)
        for image in images:
            self._images.decode(image)
        return time.perf_counter() - start, time.process_time() - cpu


def write_images(folder: Path, number: int, side: int) -> list[Any]:
    """Images of noise, because the file of a plain picture would have only a few bytes."""
    import numpy as np
    from PIL import Image

    from mars.types import ImageRef

    refs = []
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(pixels).save(path)
        refs.append(ImageRef(str(path), (side, side)))
    return refs


def train(folder: Path, name: str, way: str, address: str) -> dict[str, Any]:
    """For each step of a training: seconds, and bytes of the images sent. Engine and rank are on different nodes."""
    special = (
        f"cluster.address={address}",
        "cluster.cpus_per_worker=1",
        f"data.transport={way}",
        f"data.prompts_per_step={PROMPTS_PER_STEP}",
        f"actor.prompts_per_update={PROMPTS_PER_STEP}",
        "actor.num_workers=1",
        "rollout=hf",
    )
    steps = 2 * STEPS_PER_EPOCH
    done = run_job(Job(name, special, folder, rows_file(SOURCES), folder / name, steps, TIMEOUT))
    return {
        "step_seconds": [row["timing_s/step"] for row in done.rows],
        "image_bytes": [row.get("perf/image_bytes_shipped", 0.0) for row in done.rows],
    }


def ratios(trainings: dict[str, list[dict[str, Any]]]) -> dict[str, list[float]]:
    """For each round: the median seconds per step with object_store, divided by that with path.

    first_epoch: without the first step. second_epoch: all steps.
    """
    found: dict[str, list[float]] = {"first_epoch": [], "second_epoch": []}
    for path, shipped in zip(trainings["path"], trainings["object_store"], strict=True):
        for name, part in (("first_epoch", slice(1, STEPS_PER_EPOCH)), ("second_epoch", slice(STEPS_PER_EPOCH, None))):
            found[name].append(median(shipped["step_seconds"][part]) / median(path["step_seconds"][part]))
    return found
