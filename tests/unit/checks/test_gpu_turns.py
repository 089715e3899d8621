"""What a GPU must hold in each part of a step, by hand."""

from __future__ import annotations

from mars.checks.gpu_turns import (
    VLLM_OTHER_BYTES,
    Demand,
    demands,
    fit_lines,
    host_line,
    sequences_line,
)
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.weights.object_store import ObjectStoreTransfer

GIB = 2**30
TRAINER = {"parameters": 8 * GIB, "gradients": 8 * GIB, "optimizer states": 16 * GIB, "activations": 3 * GIB}
ENGINE = {"parameters": 4 * GIB, "KV cache": 2 * GIB}


def config(*overrides: str) -> TrainConfig:
    return load_config("train", ["data.train_files=[x]", *overrides], [])


def found(*overrides: str) -> dict[str, float]:
    """When -> GiB on a GPU."""
    given = config(*overrides)
    return {d.when: d.total / GIB for d in demands(TRAINER, ENGINE, given.rollout, given.cluster)}


def test_in_turns_the_largest_counts_and_not_the_sum_by_hand():
    assert VLLM_OTHER_BYTES == 4 * GIB
    assert ObjectStoreTransfer.bucket_bytes == GIB // 4
    gathered = 3 / 4  # three times 256 MiB
    assert found("cluster=local") == {"update": 36, "new weights": 8 + gathered, "generation": 10}
    assert found("cluster=local", "rollout=hf") == {"update": 35, "new weights": 4 + gathered, "generation": 6}
    assert found("cluster=local", "rollout=scripted") == {"update": 35, "new weights": gathered, "generation": 0}
    more = ("rollout.weight_transfer=cuda_ipc", "rollout.weight_bucket_bytes=1073741824", "cluster.device=cuda")
    assert found("cluster.placement=colocated", "actor.num_workers=1", *more)["new weights"] == 8 + 3


def test_host_memory_is_counted_in_turns_by_hand():
    (line,) = host_line(24 * GIB, config("cluster=local").cluster)
    assert "24.0 to 48.0 GiB" in line
    assert "up to 24.0 more from the first checkpoint on" in line
    assert list(host_line(24 * GIB, config().cluster)) == []


def test_apart_each_has_gpus_of_its_own_and_in_one_process_both_are_there_by_hand():
    assert found() == {"a GPU of the trainer": 35, "a GPU of an engine": 10}
    assert found("cluster=local", "cluster.placement=separate", "rollout=hf") == {"at all times": 41}


def test_what_fits_leaves_a_quarter_free_by_hand():
    demand = Demand("update", {"parameters": 30 * GIB})
    lines = [next(iter(fit_lines([demand], size * GIB))) for size in (40, 39, 30, 29)]
    assert lines == [
        "on each GPU       update: 30.0 GiB of 40.0: fits",
        "on each GPU       update: 30.0 GiB of 39.0: may not fit: more than 75% of the GPU",
        "on each GPU       update: 30.0 GiB of 30.0: may not fit: more than 75% of the GPU",
        "on each GPU       update: 30.0 GiB of 29.0: does not fit",
    ]
    unknown = list(fit_lines([demand], None))
    assert unknown[0] == "on each GPU       update: 30.0 GiB"
    assert "set cluster.gpu_memory_gib" in unknown[1]


def test_vllm_may_take_its_share_of_the_gpu_by_hand():
    """10 GiB of 12 are more than half of it, and less than 85 %. Then 0.85 x 20 - 4 - 4 = 9 GiB hold 4 sequences."""
    half, most = config("cluster=local"), config("cluster=local", "rollout.vllm.gpu_memory_utilization=0.85")
    for given, verdict in ((half, "may not fit: more than 50% of the GPU"), (most, "fits")):
        *_, generation = fit_lines(demands(TRAINER, ENGINE, given.rollout, given.cluster), 12 * GIB)
        assert generation == f"on each GPU       generation: 10.0 GiB of 12.0: {verdict}"
    (line,) = sequences_line(ENGINE, most.rollout, 20 * GIB)
    assert line.startswith("KV cache          room for 4 sequences of 12288 tokens at once; rollout.max_num_seqs=256,")
    (line,) = sequences_line(ENGINE, half.rollout, 8 * GIB)
    assert "room for 0 sequences" in line
    given = config("rollout.vllm.kv_cache_memory_bytes=7000000000").rollout
    (line,) = sequences_line(ENGINE, given, 8 * GIB)
    assert "room for 3 sequences" in line
    assert list(sequences_line(ENGINE, config("rollout=hf").rollout, 8 * GIB)) == []
