"""The presets for real models: their memory by the formulas of the dry run, and docs/scaling.md, which shows it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mars.checks.gpu_turns import VLLM_OTHER_BYTES, demands, fit_lines
from mars.checks.memory import ModelShape, engine_memory, kv_bytes_per_token, trainer_memory
from mars.config.load import load_config

ROOT = Path(__file__).parents[3]
EXPERIMENTS = sorted(path.stem for path in ROOT.glob("configs/experiment/*gpus.yaml"))
COLD_STARTS = [name for name in EXPERIMENTS if name.startswith("sft_")]
PRESETS = [name for name in EXPERIMENTS if name not in COLD_STARTS]
GIB, GPU = 2**30, 80e9
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The public checkpoints: parameters (tied weights once), hidden size, size of the MLP, layers, heads, KV heads, head
# size, vocabulary.
SHAPES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelShape(3_754_622_976, 2_048, 11008, 36, 16, 2, 128, 151_936),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelShape(8_292_166_656, 3_584, 18944, 28, 28, 4, 128, 152_064),
    "Qwen/Qwen2.5-VL-32B-Instruct": ModelShape(33_452_718_336, 5_120, 27648, 64, 40, 8, 128, 152_064),
    "Qwen/Qwen3-VL-2B-Instruct": ModelShape(2_127_532_032, 2_048, 6144, 28, 16, 8, 128, 151_936),
    "Qwen/Qwen3-VL-4B-Instruct": ModelShape(4_437_815_808, 2_560, 9728, 36, 32, 8, 128, 151_936),
    "Qwen/Qwen3-VL-8B-Instruct": ModelShape(8_767_123_696, 4_096, 12288, 36, 32, 8, 128, 151_936),
    # And layers with linear attention, and their value heads, key size and value size.
    "Qwen/Qwen3.5-2B": ModelShape(2_213_241_664, 2_048, 6144, 24, 8, 2, 256, 248_320, 18, (16, 128, 128)),
    "Qwen/Qwen3.5-4B": ModelShape(4_539_265_536, 2_560, 9216, 32, 16, 4, 256, 248_320, 24, (32, 128, 128)),
    "Qwen/Qwen3.5-9B": ModelShape(9_409_813_744, 4_096, 12288, 32, 16, 4, 256, 248_320, 24, (32, 128, 128)),
}
# Columns of the trainer's table.
PARTS = (
    "parameters", "gradients", "optimizer states", "reference model", "activations", "linear attention", "logits chunk",
)  # fmt: skip
# GiB of vLLM besides weights and KV cache.
OTHER = VLLM_OTHER_BYTES // GIB
# The presets for one GPU that engine and trainer share, and the parameters that they train: LoRA adapters of the
# language model, or the language model, which is all but the vision tower and the projector.
ONE_GPU = {
    "qwen3_vl_2b_1gpu_24gb": 32 * 28 * (2 * (2048 + 2048) + 2 * (2048 + 1024) + 3 * (2048 + 6144)),
    "qwen2_5_vl_3b_1gpu_80gb": 3_754_622_976 - 668_684_288,
}


@pytest.fixture(scope="module")
def tables():
    """Preset -> its cells in the tables of docs/scaling.md, one after the other."""
    found = {}
    for line in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].strip("`") in [*PRESETS, *ONE_GPU]:
            found.setdefault(cells[0].strip("`"), []).extend(cells[1:])
    return found


def test_there_is_a_preset_for_every_model():
    models = {load_config("train", [f"experiment={p}", "data.train_files=[x.parquet]"], []).model.path for p in PRESETS}
    assert models == set(SHAPES)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_and_its_figures_are_those_of_the_page(preset, tables):
    config = load_config("train", [f"experiment={preset}", "data.train_files=[x.parquet]"], [])
    shape, actor, rollout, dtype = SHAPES[config.model.path], config.actor, config.rollout, config.model.dtype
    parts = trainer_memory(
        shape,
        num_trained=shape.num_parameters,
        num_ranks=actor.num_workers,
        dtype=dtype,
        tokens_per_forward=actor.tokens_per_forward,
        logprob_chunk_tokens=actor.logprob_chunk_tokens,
        gradient_checkpointing=actor.gradient_checkpointing,
        with_reference=config.algorithm.kl_coefficient > 0,
    )
    engine_gpus, tp = rollout.num_workers * rollout.tensor_parallel_size, rollout.tensor_parallel_size
    sequences = {"max_num_seqs": rollout.max_num_seqs, "max_model_len": 1}
    engine = engine_memory(shape, tensor_parallel_size=tp, dtype=dtype, **sequences)
    weights, states = engine["parameters"], engine.get("states of linear attention", 0)
    token = kv_bytes_per_token(shape, dtype) // tp
    room = (rollout.vllm.gpu_memory_utilization * 80 - OTHER) * GIB - weights - states
    store, needed = config.cluster.object_store_bytes, 2 * shape.num_parameters + GIB

    assert f"_{actor.num_workers + engine_gpus}gpus" in preset
    assert sum(parts.values()) < 0.75 * GPU
    assert room / token > 16 * rollout.max_model_len  # sequences of the greatest length
    assert needed <= store < needed + GIB
    assert tables[preset] == [
        str(actor.num_workers),
        *(
            f"{size / GIB:.1f}" if size else "-"
            for size in (*(parts.get(name, 0) for name in PARTS), sum(parts.values()))
        ),
        f"{rollout.num_workers} x {tp}",
        f"{weights / GIB:.1f}",
        f"{token:,}",
        f"{int(room / token) // 1000:,}",
        str(rollout.max_num_seqs),
        str(store // GIB),
    ]


def test_the_readme_has_the_figures_of_the_page(tables):
    rows = re.findall(r"^\| (Qwen\S+) \| .* B \| (\d+) \((\d+)\) \| (\d+) \((\d+)\) \|$", README, re.MULTILINE)
    page = {
        (model_of(preset), cells[0], f"{float(cells[8]):.0f}", cells[9].rpartition("x ")[2], f"{float(cells[10]):.0f}")
        for preset, cells in tables.items()
        if preset in PRESETS
    }
    assert len(rows) == len(SHAPES)
    assert set(rows) <= page


def model_of(preset):
    """Such as Qwen3-VL-2B."""
    path = load_config("train", [f"experiment={preset}", "data.train_files=[x.parquet]"], []).model.path
    return path.removeprefix("Qwen/").removesuffix("-Instruct")


@pytest.mark.parametrize("preset", ONE_GPU)
def test_one_gpu_is_enough_in_turns_and_the_page_has_the_figures(preset, tables):
    config = load_config("train", [f"experiment={preset}", "data.train_files=[x.parquet]"], [])
    shape, actor, rollout, trained = SHAPES[config.model.path], config.actor, config.rollout, ONE_GPU[preset]
    adapters, gpu_gib = trained if actor.lora.rank else 0, config.cluster.gpu_memory_gib
    assert (config.cluster.kind, config.cluster.device, actor.num_workers, rollout.num_workers) == (
        "local",
        "cuda",
        1,
        1,
    )
    trainer = trainer_memory(
        replace(shape, num_parameters=shape.num_parameters + adapters),
        num_trained=trained,
        num_ranks=1,
        dtype=config.model.dtype,
        tokens_per_forward=actor.tokens_per_forward,
        logprob_chunk_tokens=actor.logprob_chunk_tokens,
        gradient_checkpointing=actor.gradient_checkpointing,
        with_reference=config.algorithm.kl_coefficient > 0 and not adapters,
    )
    engine = engine_memory(
        shape, tensor_parallel_size=1, dtype=config.model.dtype, max_num_seqs=1, max_model_len=rollout.max_model_len
    )
    found = demands(trainer, engine, rollout, config.cluster)
    lines = list(fit_lines(found, int(gpu_gib * GIB)))
    assert all(line.endswith(": fits") for line in lines), lines
    assert [demand.when for demand in found] == ["update", "new weights", "generation"]
    room = (rollout.vllm.gpu_memory_utilization * gpu_gib - OTHER) * GIB - engine["parameters"]
    host = sum(trainer[name] for name in ("parameters", "optimizer states"))
    assert tables[preset] == [
        *(f"{trainer[name] / GIB:.1f}" for name in ("parameters", "gradients", "optimizer states")),
        *(f"{trainer[name] / GIB:.1f}" for name in ("activations", "logits chunk")),
        f"{found[0].total / GIB:.1f} of {gpu_gib:g}",
        f"{found[1].total / GIB:.1f}",
        f"{int(room / kv_bytes_per_token(shape, config.model.dtype)) // 1000:,}",
        f"{host / GIB:.1f} to {2 * host / GIB:.1f}",
    ]


@pytest.mark.parametrize("preset", COLD_STARTS)
def test_a_cold_start_fits_with_all_parameters_trained(preset):
    config = load_config("sft", [f"experiment={preset}", "data.train_files=[x.parquet]"], [])
    shape, sft = SHAPES[config.model.path], config.sft
    parts = trainer_memory(
        shape,
        num_trained=shape.num_parameters,
        num_ranks=sft.num_workers,
        dtype=config.model.dtype,
        tokens_per_forward=sft.tokens_per_forward,
        logprob_chunk_tokens=sft.logprob_chunk_tokens,
        gradient_checkpointing=sft.gradient_checkpointing,
        with_reference=False,
    )
    assert f"_{sft.num_workers}gpus" in preset
    assert sum(parts.values()) < 0.5 * GPU
