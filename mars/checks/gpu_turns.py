"""What must be on a GPU at once in each part of a step, and whether it fits. From the estimates of memory.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mars.config.run_sections import ClusterConfig, is_colocated
from mars.config.schema import RolloutConfig
from mars.weights.object_store import ObjectStoreTransfer

_GIB = 2**30
# Kept free for what the estimate leaves out: activations of the vision tower, the layer that FSDP has gathered,
# fragmentation.
_MARGIN = 0.25
_OTHER = "vLLM's other memory"
# vLLM's memory besides weights and KV cache: activations, CUDA graphs.
VLLM_OTHER_BYTES = 4 * _GIB
# What an engine keeps while it sleeps: its CUDA context, NCCL's buffers, inputs of CUDA graphs. Not measured yet.
ASLEEP_BYTES = 1 * _GIB
# While a rank gathers a bucket of weights, it holds up to three buffers of that size: its own shards, those of all
# ranks, and what it sends.
BUCKET_COPIES = 3


@dataclass(frozen=True)
class Demand:
    """Bytes on one GPU, by purpose.

    when: the part of a step in which they must be on the GPU, such as "update", or "at all times". If the trainer and
        the engines have separate GPUs: which of these, such as "a GPU of an engine".
    limit: share of the GPU that may be taken.
    """

    when: str
    parts: Mapping[str, int]
    limit: float = 1 - _MARGIN

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def demands(
    trainer: Mapping[str, int], engine: Mapping[str, int], rollout: RolloutConfig, cluster: ClusterConfig
) -> list[Demand]:
    """What the GPUs must hold.

    trainer: bytes on one GPU by purpose, from `trainer_memory`.
    engine: the same from `engine_memory`, with the smallest cache that is enough: for one sequence with vLLM, for all
        sequences with other engines.
    """
    if rollout.is_scripted:
        engine = {}
    limit = 1 - _MARGIN
    if rollout.engine == "vllm":
        engine = {**engine, _OTHER: VLLM_OTHER_BYTES}
        limit = rollout.vllm.gpu_memory_utilization
    if is_colocated(cluster.placement, cluster.kind, cluster.device):
        stored = rollout.weight_transfer == "object_store"
        bucket = ObjectStoreTransfer.bucket_bytes if stored else rollout.weight_bucket_bytes
        stays = engine and (rollout.engine == "vllm" or cluster.kind == "ray")
        loading = {name: size for name, size in engine.items() if name in ("parameters", _OTHER)}
        return [
            Demand("update", {**trainer, "the engine asleep": ASLEEP_BYTES} if stays else trainer),
            Demand("new weights", {**loading, "gathered weights": BUCKET_COPIES * bucket}),
            Demand("generation", engine, limit),
        ]
    if cluster.kind == "local":
        of_engine = {f"the engine's {name}": size for name, size in engine.items()}
        return [Demand("at all times", {**trainer, **of_engine})]
    return [Demand("a GPU of the trainer", trainer), Demand("a GPU of an engine", engine, limit)]


def host_line(offloaded: int, cluster: ClusterConfig) -> Iterator[str]:
    """Host memory of a rank that takes turns with an engine. offloaded: bytes that it moves there.

    Pinned memory comes in blocks of powers of two, one for each tensor, so it may take up to twice as much. A
    checkpoint needs a further copy of what it writes.
    """
    if is_colocated(cluster.placement, cluster.kind, cluster.device):
        size = offloaded / _GIB
        yield (
            f"host memory rank  {size:.1f} to {2 * size:.1f} GiB, pinned, for the whole run: what leaves the GPU while "
            f"the engine generates; and up to {size:.1f} more from the first checkpoint on"
        )


def fit_lines(found: list[Demand], gpu_bytes: int | None) -> Iterator[str]:
    """One line for each demand. gpu_bytes: memory of a GPU; None if nobody knows, then a further line says so."""
    for demand in found:
        yield f"on each GPU       {demand.when}: {demand.total / _GIB:.1f} GiB{_verdict(demand, gpu_bytes)}"
    if gpu_bytes is None:
        yield "on each GPU       does it fit? this machine has no GPU; set cluster.gpu_memory_gib"


def _verdict(demand: Demand, gpu_bytes: int | None) -> str:
    if gpu_bytes is None:
        return ""
    size, allowed = gpu_bytes / _GIB, demand.limit * gpu_bytes
    if demand.total <= allowed:
        return f" of {size:.1f}: fits"
    if demand.total <= gpu_bytes:
        return f" of {size:.1f}: may not fit: more than {demand.limit:.0%} of the GPU"
    return f" of {size:.1f}: does not fit"


def sequences_line(engine: Mapping[str, int], rollout: RolloutConfig, gpu_bytes: int | None) -> Iterator[str]:
    """How many sequences of maximal length vLLM can hold. engine: as for `demands`."""
    if rollout.engine != "vllm" or gpu_bytes is None:
        return
    cache = sum(size for name, size in engine.items() if name != "parameters")
    room = rollout.vllm.kv_cache_memory_bytes
    if room is None:
        room = rollout.vllm.gpu_memory_utilization * gpu_bytes - engine["parameters"] - VLLM_OTHER_BYTES
    number = max(int(room // cache), 0)
    wanted = f"rollout.max_num_seqs={rollout.max_num_seqs}"
    yield (
        f"KV cache          room for {number} sequences of {rollout.max_model_len} tokens at once; {wanted}, and most "
        "are shorter"
    )
