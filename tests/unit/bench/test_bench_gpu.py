"""The arithmetic of scripts/bench_gpu.py: parameters, FLOPs, MFU, reports; its model and its jobs. Nothing is timed."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_gpu  # noqa: E402
from bench import gpu_report, gpu_work, gpu_workload  # noqa: E402
from bench.gpu_work import Flops, Group  # noqa: E402
from bench.gpu_workload import CASES, SMOKE  # noqa: E402
from bench.training import BENCH, Job, job_overrides  # noqa: E402

from mars.config.load import load_config  # noqa: E402
from mars.errors import SetupError  # noqa: E402

SMALL = SimpleNamespace(
    text_config=SimpleNamespace(
        hidden_size=8, num_attention_heads=2, num_key_value_heads=1, intermediate_size=10, num_hidden_layers=3,
        vocab_size=5,
    ),
    vision_config=SimpleNamespace(
        depth=2, hidden_size=4, intermediate_size=6, out_hidden_size=8, patch_size=14, temporal_patch_size=2,
        in_channels=3, spatial_merge_size=2, window_size=112, fullatt_block_indexes=[1],
    ),
)  # fmt: skip


def options(**changes) -> Namespace:
    given = {
        "launch": "local", "trainers": 1, "rollout": "vllm", "prompts": 4, "samples": 3, "response_tokens": 10,
        "steps": 3, "warm_up": 1, "rounds": 1, "peak_tflops": None, "overrides": [], "smoke": False,
        "packings": list(gpu_report.PACKINGS), "timeout": 60.0,
    }  # fmt: skip
    return Namespace(**given | changes)


def config_of(case, packing="shared_prefix", **changes):
    return load_config(
        "train",
        [
            "experiment=bench_gpu",
            "data.train_files=[none]",
            *bench_gpu.run_overrides(case, packing, options(**changes)),
        ],
        [str(BENCH)],
    )


# --- FLOPs


def test_decoder_by_hand():
    assert gpu_work.layer_weights(SMALL) == 8 * (8 + 4 + 4 + 8) + 3 * 8 * 10 == 432
    # 6 tokens, causal: 21 pairs, each 8 numbers twice, multiplied and added.
    found = gpu_work.decoder_flops(SMALL, tokens=6, pairs=21)
    assert found == Flops(3 * (2 * 432 * 6 + 4 * 8 * 21), 2 * 3 * (2 * 432 * 6 + 4 * 8 * 21))
    assert found.total == 6 * (3 * 432) * 6 + 12 * 3 * 8 * 21
    assert gpu_work.head_flops(SMALL, scored=4) == Flops(2 * 8 * 5 * 4, 4 * 8 * 5 * 4)


def test_vision_tower_by_hand():
    patches, merged = 2 * 4, 2
    embedding = 2 * (3 * 2 * 14 * 14) * 4 * patches
    blocks = 2 * (2 * (4 * 16 + 3 * 24) * patches + 4 * 4 * patches**2)  # the image is smaller than a window
    merger = 2 * 16 * (16 + 8) * merged
    found = gpu_work.vision_flops(SMALL, (2, 4))
    assert found == Flops(embedding + blocks + merger, embedding + 2 * (blocks + merger))


def test_windows_leave_out_pairs():
    wide = gpu_work.vision_flops(SMALL, (10, 16)).forward
    SMALL.vision_config.fullatt_block_indexes = [0, 1]
    try:
        full = gpu_work.vision_flops(SMALL, (10, 16)).forward
    finally:
        SMALL.vision_config.fullatt_block_indexes = [1]
    assert full - wide == 4 * 4 * (160**2 - (2 * 64**2 + 2 * 16**2))


def test_a_group_counts_its_prompt_and_images_once():
    groups = [Group(5, (2, 3), ((2, 4), (4, 4))), Group(4, (), ())]
    parts = gpu_work.group_flops(SMALL, groups)
    pairs = 15 + (6 + 7) + (6 + 7 + 8)
    assert parts["decoder"] == gpu_work.decoder_flops(SMALL, 10, pairs) + gpu_work.decoder_flops(SMALL, 4, 10)
    assert parts["head"] == gpu_work.head_flops(SMALL, 5)
    assert parts["vision"] == gpu_work.vision_flops(SMALL, (2, 4)) + gpu_work.vision_flops(SMALL, (4, 4))


def test_mfu_is_the_share_of_all_gpus_peak():
    assert gpu_work.mfu(3e14, seconds=2.0, peak_tflops=300.0, num_gpus=1) == 0.5
    assert gpu_work.mfu(3e14, seconds=2.0, peak_tflops=300.0, num_gpus=4) == 0.125


@pytest.fixture(scope="module")
def eager(one_thread):
    """The tiny model with attention that torch counts."""
    from transformers import AutoModelForImageTextToText

    from mars.data.synthetic.tiny_model import build_config, build_tokenizer

    config = build_config("qwen2_5_vl", build_tokenizer(), tie_word_embeddings=True)
    return AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager").train()


@pytest.mark.parametrize("grid", [(6, 8), (10, 14), (20, 6)])
def test_flops_are_those_that_torch_counts(eager, grid):
    """Eager attention computes whole squares, masked or not, and all logits are asked for."""
    config, image_tokens = eager.config, grid[0] * grid[1] // 4
    ids = torch.tensor([[config.vision_start_token_id, *[config.image_token_id] * image_tokens, 7, 8, 9]])
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": torch.randn(grid[0] * grid[1], 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, *grid]]),
    }
    tokens = ids.numel()
    wanted = gpu_work.decoder_flops(config, tokens, tokens**2) + gpu_work.head_flops(config, tokens)
    wanted += gpu_work.vision_flops(config, grid)
    with FlopCounterMode(display=False) as counter:
        logits = eager(**inputs, use_cache=False).logits
    assert counter.get_total_flops() == pytest.approx(wanted.forward, rel=0.01)
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    assert counter.get_total_flops() == pytest.approx(wanted.backward, rel=0.01)


# --- the model


def test_parameters_are_those_of_the_built_model(eager):
    assert gpu_work.num_parameters(eager.config) == sum(p.numel() for p in eager.parameters())


@pytest.fixture(scope="module")
def tokenizer():
    return gpu_workload.full_tokenizer()


def test_the_3b_configuration_has_the_public_models_parameters(tokenizer):
    from transformers import AutoModelForImageTextToText

    config = gpu_workload.config_3b(tokenizer)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    built = sum(parameter.numel() for parameter in model.parameters())
    assert gpu_work.num_parameters(config) == built == 3_754_622_976
    assert gpu_work.layer_weights(config) * 36 == 2_774_532_096


def test_the_full_tokenizer_has_the_public_ids(tokenizer):
    from mars.data.synthetic.tiny_model import build_tokenizer

    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("endoftext", "im_start", "im_end", "image_pad")
    }
    assert ids == {"endoftext": 151_643, "im_start": 151_644, "im_end": 151_645, "image_pad": 151_655}
    assert len(tokenizer) == 151_657
    text = f"The infrared image: {gpu_workload.QUESTION}\n"
    assert tokenizer.encode(text) == build_tokenizer().encode(text)
    assert tokenizer.encode("<|im_start|>") == [151_644]
    words = tokenizer.decode([100_000, 151_642])
    assert len(words.replace(" ", "")) == 12
    assert words.replace(" ", "").isalpha()


def test_the_model_never_ends_a_response(tmp_path, one_thread):
    from transformers import AutoModelForImageTextToText

    facts = gpu_workload.prepare(tmp_path, "tiny", "cpu", 1, [SMOKE])
    assert gpu_workload.prepare(tmp_path, "tiny", "cpu", 1, [SMOKE]) == facts  # made once
    with pytest.raises(ValueError, match="another --folder"):
        gpu_workload.prepare(tmp_path, "3b", "cpu", 1, [SMOKE])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert facts["parameters"] == gpu_work.num_parameters(model.config)
    end, config = model.generation_config.eos_token_id, model.config
    words = [i for i in range(600) if i != end and i not in (config.image_token_id, config.video_token_id)]
    image = [config.vision_start_token_id, *[config.image_token_id] * 4, config.vision_end_token_id]
    ids = torch.tensor([[*words, *image, *words[:50]]])
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            mm_token_type_ids=(ids == config.image_token_id).int(),
            pixel_values=torch.randn(16, 1176),
            image_grid_thw=torch.tensor([[1, 4, 4]]),
        ).logits[0]
    others = logits.clone()
    others[:, end] = torch.inf
    assert (others.min(dim=-1).values - logits[:, end]).min() > 20


# --- jobs and reports


def test_cases_fit_the_prompt_limit_of_the_configuration(tokenizer):
    patches = {}
    for case in CASES.values():
        config = config_of(case)
        grid = gpu_report.image_grid(case, config, gpu_workload.config_3b(tokenizer))
        patches[case.name] = grid
        assert case.num_images * (grid[0] * grid[1] // 4 + 2) + 100 < config.data.max_prompt_tokens
        assert config.rollout.max_model_len == config.data.max_prompt_tokens + 10
    assert patches == {"two_1280x1024": (64, 80), "six_1600x900": (36, 66), "two_640x480": (34, 46)}


def test_packings_differ_in_nothing_else():
    ours, padded = (config_of(CASES["two_1280x1024"], packing) for packing in gpu_report.PACKINGS)
    assert (ours.actor.packing, padded.actor.packing) == ("shared_prefix", "padded")
    assert ours.model_copy(update={"actor": padded.actor}) == padded
    assert ours.actor.model_copy(update={"packing": "padded"}) == padded.actor
    assert ours.model.dtype == "bfloat16"
    assert ours.actor.gradient_checkpointing
    assert ours.data.prompts_per_step == 2 * ours.actor.prompts_per_update
    assert config_of(SMOKE, rollout="hf", smoke=True).cluster.device == "cpu"


def test_overrides_come_last(tmp_path):
    special = bench_gpu.run_overrides(SMOKE, "padded", options(overrides=["actor.tokens_per_forward=77"]))
    job = Job("name", special, tmp_path, SMOKE.rows_file, tmp_path / "run", 3, 60.0, bench_gpu.EXPERIMENT)
    config = load_config("train", job_overrides(job), [str(BENCH)])
    assert config.actor.tokens_per_forward == 77
    assert config.data.train_files == [str(tmp_path / "smoke.parquet")]
    assert config.run.num_steps == 3


def row(update=2.0, old=1.0, memory=None, **changes):
    stages = {
        "gen": 4.0,
        "reward": 0.0,
        "old_log_prob": old,
        "update_actor": update,
        "sync_weights": 0.5,
        "driver": 0.5,
    }
    found = {f"timing_s/{stage}": seconds for stage, seconds in stages.items()} | {
        "timing_s/step": sum(stages.values()),
        "perf/throughput": 100.0,
        "rollout/logprob_diff_max": 0.25,
        "response_length/min": 10.0,
        "response_length/max": 10.0,
        "prompt_length/mean": 40.0,
    }
    return found | ({} if memory is None else {gpu_report.MEMORY: memory}) | changes


def test_a_run_by_hand(eager):
    config = config_of(SMOKE)
    step = gpu_report.step_of(SMOKE, config, eager.config, [row(), row()])
    assert step.groups == (Group(40, (10, 10, 10), ((6, 8), (6, 8))),) * 4
    assert (step.sampled, step.needed) == (4 * 3 * 10, 4 * (40 + 30))
    rows = [row(update=2.0, memory=30.0), row(update=4.0, memory=31.0), row(update=2.5, memory=29.0)]
    found = gpu_report.run_report(step, config, eager.config, rows, peak=1e-3)
    assert found["seconds"]["update_actor"] == 2.5
    assert found["tokens_per_second"] == {"gen": 120 / 4, "old_log_prob": 140 / 1, "update_actor": 280 / 2.5}
    assert found["peak_memory_gib"] == 31.0
    total = sum(part.total for part in step.parts.values())
    assert found["update_mfu"] == pytest.approx(total / 2.5 / 1e9)
    forward = sum(part.forward for part in step.parts.values())
    assert found["old_log_prob_mfu"] == pytest.approx(forward / 2 / 1.0 / 1e9)  # of the second update alone
    published = 2 * gpu_work.num_parameters(eager.config)
    assert found["sync_gigabytes_per_second"] == pytest.approx(published / 1e9 / 0.5)


def test_nothing_is_claimed_that_was_not_measured(eager):
    config = config_of(SMOKE)
    step = gpu_report.step_of(SMOKE, config, eager.config, [row()])
    found = gpu_report.run_report(step, config, eager.config, [row(old=0.0)], peak=None)
    assert not {"update_mfu", "old_log_prob_mfu", "peak_memory_gib"} & found.keys()
    assert set(found["tokens_per_second"]) == {"gen", "update_actor"}
    case = gpu_report.case_report({"shared_prefix": [{"round": 0} | found], "padded": []})
    assert case["padded/shared_prefix"] == {}
    assert gpu_report.checks({"smoke": case}) == {}


@pytest.mark.parametrize(
    "rows",
    [
        [row(), row(**{"response_length/min": 9.0})],
        [row(), row(**{"prompt_length/mean": 41.0})],
        [row(**{"prompt_length/mean": 40.5})],
    ],
)
def test_work_of_unknown_size_is_refused(eager, rows):
    with pytest.raises(gpu_report.NotTheWork, match="same number"):
        gpu_report.step_of(SMOKE, config_of(SMOKE), eager.config, rows)


def run(number, update, mfu=None):
    found = {"round": number, "seconds": {"update_actor": update, "old_log_prob": 0.0, "step": 2 * update}}
    return found if mfu is None else found | {"update_mfu": mfu}


def test_ratios_are_of_runs_of_one_round():
    runs = {
        "padded": [run(0, 9.0), run(2, 8.0)],
        "shared_prefix": [run(0, 3.0, 0.5), run(1, 1.0, 0.4), run(2, 2.0, 0.44)],
    }
    case = gpu_report.case_report(runs)
    assert case["padded/shared_prefix"]["update_actor"] == {"value": 3.5, "of_each_round": [3.0, 4.0]}
    assert "old_log_prob" not in case["padded/shared_prefix"]
    assert gpu_report.checks({"two": case}) == {"two update_mfu": {"value": 0.44, "at_least": 0.45, "met": False}}


# --- the machine

H200 = {"name": "NVIDIA H200", "memory_gib": 139.8}


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    monkeypatch.setattr(bench_gpu, "gpus_seen", list)
    assert bench_gpu.main() == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no GPU: ")
    assert err.count("\n") == 1


def test_only_gpus_with_a_known_peak():
    assert bench_gpu.usable_peak([H200], options()) == 989.4
    other = {"name": "NVIDIA H200 MIG 1g.18gb", "memory_gib": 16.0}
    with pytest.raises(gpu_work.UnknownGpu, match=r"MIG 1g\.18gb.*--peak-tflops"):
        bench_gpu.usable_peak([other], options())
    assert bench_gpu.usable_peak([other], options(peak_tflops=120.0)) == 120.0
    with pytest.raises(SetupError, match="several kinds"):
        bench_gpu.usable_peak([H200, other], options(peak_tflops=120.0))
    with pytest.raises(SetupError, match="needs 3; got 2"):
        bench_gpu.usable_peak([H200, H200], options(launch="ray", trainers=2))


@pytest.mark.parametrize(
    "wrong", [["--prompts", "3"], ["--warm-up", "4"], ["--trainers", "2"], ["--rounds", "0"], ["--trainers", "0"]]
)
def test_options_that_cannot_work(monkeypatch, wrong):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *wrong])
    with pytest.raises(SystemExit) as end:
        bench_gpu.parse_options()
    assert end.value.code == 2
