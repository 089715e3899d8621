"""Images on a cluster with a node that sees other bytes where the driver has its images.

The head has room for one worker and so has the node: engine and rank are on different nodes.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mars.run_dir.events import read_events
from tests.clusters.ray_nodes import NodeSpec, RayNodes, no_namespaces, ray_nodes
from tests.faults.test_resume import rows, weights
from tests.integration.workshop import LOCAL, Job, Workshop, run

pytestmark = pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces())

FAULTS = ("images.asked:kill@4", "images.bring:kill@2")
TRAINING = (
    "rollout=hf", "actor.num_workers=1", "cluster.cpus_per_worker=1", "cluster.call_timeout_s=120", "run.num_steps=4",
    "algorithm.kl_coefficient=0.01", "evaluation.before_training=true", "data.max_bad_fraction=0",
)  # fmt: skip
COLD_START = (
    "-m", "mars.sft", "model.dtype=float32", "cluster.device=cpu", "cluster.cpus_per_worker=1", "run.num_steps=4",
    "data.min_image_pixels=784", "data.max_image_pixels=12544", "data.max_prompt_tokens=192", "sft.batch_size=6",
    "sft.tokens_per_forward=2048", "sft.learning_rate=3.0e-3", "sft.warmup_steps=0", "sft.log_every=1",
    "checkpoint.every=0", "tracking.to=[console]",
)  # fmt: skip


@dataclass(frozen=True)
class Images:
    """A set whose first rows name image files, while the others hold their images; and the cluster to train on it.

    once: says which of the faults of the node's processes have happened. There they have all, until it is emptied.
    """

    workshop: Workshop
    files: list[Path]
    nodes: RayNodes
    once: Path

    def train(self, run_dir: Path, *overrides: str, **environment: str) -> Job:
        files = ",".join(f"'{file}'" for file in self.files)
        return self.workshop.train(run_dir, *TRAINING, f"data.train_files=[{files}]", *overrides, **environment)

    def train_on_nodes(self, run_dir: Path, *overrides: str) -> Job:
        return self.train(run_dir, f"cluster.address={self.nodes.address}", *overrides, **self.nodes.environment)

    def cold_start(self, run_dir: Path, *overrides: str, **environment: str) -> Job:
        data = [f"model.path='{self.workshop.model}'", f"data.train_files=['{self.files[0]}','{self.files[1]}']"]
        return run([*COLD_START, *data, f"run.dir='{run_dir}'", *overrides], run_dir, **environment)


@pytest.fixture(scope="module")
def images(workshop: Workshop, tmp_path_factory):
    data, folder = workshop.data, tmp_path_factory.mktemp("nodes")
    table = parquet.read_table(data / "train.parquet").to_pylist()
    for row in table:
        row["response"] = f"<answer>{row['reward_model']['ground_truth']}</answer>"
    for row in table[6:]:
        row["images"] = [{"bytes": (data / image["path"]).read_bytes(), "path": None} for image in row["images"]]
    files = [data / "named.parquet", data / "held.parquet"]
    for file, part in zip(files, (table[:6], table[6:]), strict=True):
        parquet.write_table(pa.Table.from_pylist(part), file)
    shutil.copytree(data, folder / "disk")
    shutil.copytree(data / "scenes", folder / "noise")
    for image in (folder / "noise").rglob("*.png"):
        image.write_bytes(bytes(image.stat().st_size))
    once = folder / "once"
    once.mkdir()
    for fault in FAULTS:
        (once / fault).touch()
    faults = {"MARS_FAULT": ",".join(FAULTS), "MARS_FAULT_ONCE": str(once)}
    there = {"MARS_IMAGE_ROOT": str(folder / "disk"), **faults}
    node = NodeSpec(binds={data / "scenes": folder / "noise"}, environment=there)
    with ray_nodes(NodeSpec(environment=faults), [node]) as nodes:
        yield Images(workshop, files, nodes, once)


@pytest.fixture(scope="module")
def reference(images: Images, tmp_path_factory) -> Path:
    """The run in one process, which reads files."""
    job = images.train(tmp_path_factory.mktemp("reference") / "run", *LOCAL)
    assert job.returncode == 0, job.stderr[-3000:]
    return job.run_dir


def test_shipped_images_train_as_files_do_and_are_sent_to_each_node_once(images, reference, tmp_path):
    job = images.train_on_nodes(tmp_path / "run", "data.transport=object_store")
    assert job.returncode == 0, job.stderr[-3000:]
    assert rows(job.run_dir) == rows(reference)
    assert weights(job.run_dir) == weights(reference)
    files = list((images.workshop.data / "scenes").rglob("*.png"))
    trained = [file for file in files if file.parent.name == "train"]
    evaluated = [file for file in files if file.parent.name == "test"]
    steps = [row for row in job.metrics if "perf/images_shipped" in row]
    assert sum(row["perf/images_shipped"] for row in steps) == 2 * len(trained) + len(evaluated)
    size = sum(file.stat().st_size for file in [*trained, *trained, *evaluated])
    assert sum(row["perf/image_bytes_shipped"] for row in steps) == size
    assert [steps[-1][f"perf/image{name}"] for name in ("_bytes_shipped", "s_shipped")] == [0, 0], "the second epoch"
    assert steps[-1]["perf/image_cache_hits"] > 0
    assert not any(key.startswith("perf/image") for row in rows(reference) for key in row)


def test_a_node_looks_for_images_under_its_own_root(images, reference, tmp_path):
    job = images.train_on_nodes(tmp_path / "run", f"data.image_root='{images.workshop.data}'")
    assert job.returncode == 0, job.stderr[-3000:]
    assert rows(job.run_dir) == rows(reference)
    assert weights(job.run_dir) == weights(reference)


def test_a_bad_image_is_named_with_its_node(images, tmp_path):
    job = images.train_on_nodes(tmp_path / "run")
    assert job.returncode == 3, job.stderr[-3000:]
    node = f"on node {images.nodes.workers[0].ip} ({os.uname().nodename})"
    assert node in job.stderr
    reasons = [
        entry["details"]["reason"] for entry in read_events(job.run_dir) if entry["event"] == "prompt_quarantined"
    ]
    assert reasons
    assert all(".png: cannot be decoded" in reason and reason.endswith(node) for reason in reasons)


def test_a_cold_start_goes_on_when_the_reader_and_a_store_die(images, tmp_path):
    undisturbed = images.cold_start(tmp_path / "undisturbed", "cluster=local")
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    for fault in FAULTS:
        (images.once / fault).unlink()
    address = f"cluster.address={images.nodes.address}"
    shipped = ("sft.num_workers=2", "data.transport=object_store", address)
    job = images.cold_start(tmp_path / "shipped", *shipped, **images.nodes.environment)
    assert job.returncode == 0, job.stderr[-3000:]
    assert sorted(path.name for path in images.once.iterdir()) == sorted(FAULTS)
    assert min(value for row in job.metrics for key, value in row.items() if key.startswith("perf/image")) >= 0
    assert [row["sft/loss"] for row in job.metrics] == pytest.approx(
        [row["sft/loss"] for row in undisturbed.metrics], rel=1e-4
    )
