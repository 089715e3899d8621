"""Settings of the run itself: its name and length, machines, trackers and checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mars.config.numbers import NonNegativeInt, PositiveFloat, PositiveInt
from mars.config.section import Section


class RunConfig(Section):
    name: str = Field(min_length=1, description="Name of the run, shown in trackers and the report.")
    dir: str = Field(min_length=1, description="Folder that receives everything the run writes.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        description="Seed of the data order, the sampling and the initialisation."
    )


class TrainRunConfig(RunConfig):
    num_steps: PositiveInt | None = Field(description="Training steps; null: train `run.num_epochs` epochs.")
    num_epochs: PositiveInt | None = Field(description="Passes over the training set; used if num_steps is null.")
    resume: bool = Field(description="Go on from the newest checkpoint in run.dir; false: run.dir must be new.")


class ClusterConfig(Section):
    kind: Literal["ray", "local"] = Field(description="ray: worker processes; local: everything in this process.")
    device: Literal["cuda", "cpu"] = Field(description="Where engine and trainer compute.")
    placement: Literal["auto", "separate", "colocated"] = Field(
        description="separate: engine and trainer keep their memory; colocated: they take turns on the same GPUs; "
        "auto: colocated for cluster.kind=local on a GPU, else separate."
    )
    gpu_memory_gib: PositiveFloat | None = Field(
        description="Memory of each GPU in GiB, by which --dry-run says whether the run fits; null: as this machine's."
    )
    address: str | None = Field(description="Ray cluster to join (host:port or auto); null starts one on this machine.")
    node_strategy: Literal["pack", "spread"] = Field(
        description="pack: fill one node after the other with workers; spread: give each node an even share of the "
        "engines."
    )
    cpus_per_worker: PositiveFloat = Field(description="Ray CPUs reserved for each worker.")
    threads_per_worker: PositiveInt = Field(description="Compute threads of each worker process.")
    object_store_bytes: PositiveInt = Field(
        description="Size of the Ray object store, if mars starts the cluster; of a joined one, nodes with a smaller "
        "store get a warning."
    )
    start_timeout_s: PositiveFloat = Field(description="Deadline for workers to start, in seconds.")
    call_timeout_s: PositiveFloat = Field(description="Deadline for one call to a worker, in seconds.")
    replace_timeout_s: PositiveFloat = Field(
        description="Longest wait of a step for room for an engine whose node is lost, in seconds; then the run goes "
        "on without it until a node has room."
    )

    watchdog_s: PositiveFloat = Field(
        description="A training without progress for so many seconds writes all stacks to its logs and ends (exit 8)."
    )


def is_colocated(placement: str, kind: str, device: str) -> bool:
    """Whether engine and trainer take turns on the same GPUs: `cluster.placement`, with "auto" resolved."""
    return placement == "colocated" or (placement == "auto" and kind == "local" and device == "cuda")


REPORT = "report"
TRACKERS = ("console", REPORT, "wandb", "tensorboard", "swanlab", "mlflow")


class TrackerConfig(Section):
    to: list[str] = Field(
        description=f"Where metrics go besides metrics.jsonl: {', '.join(TRACKERS)}, path/to/file.py:Class; []: "
        "nowhere. docs/tracking.md."
    )
    project: str = Field(min_length=1, description="Project of wandb and swanlab, experiment of mlflow.")
    timeout_s: PositiveFloat = Field(
        description="Longest wait for a tracker at the end of a run, and for wandb, swanlab, mlflow and classes of "
        "your own at a step, in seconds; their start may take three times as long and a minute."
    )


class TrackingConfig(TrackerConfig):
    rollouts_every: NonNegativeInt = Field(
        description="Write rollouts to files, and pictures of them to trackers, every this many steps; 0: never."
    )
    rollout_prompts: PositiveInt = Field(description="Number of prompts whose rollouts are written.")


class CheckpointConfig(Section):
    every: NonNegativeInt = Field(description="Save a checkpoint every this many steps; 0: at the end only.")
    keep_last: Annotated[int, Field(ge=2)] = Field(description="Newest checkpoints that are kept.")
    keep_best: str | None = Field(
        description="Also keep the checkpoint with the largest value of this metric, such as eval/multi/mean; if its "
        "name ends in /loss, with the smallest. null: none."
    )
    grace_s: PositiveFloat = Field(description="Longest time from a signal to the end of the process, in seconds.")
