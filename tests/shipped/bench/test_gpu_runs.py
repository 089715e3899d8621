"""Which runs of scripts/bench.py gpu are made, and which are left out for lack of time or memory."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest

from mars.config.load import load_config
from scripts.bench import gpu, gpu_runs
from scripts.bench.gpu_report import Step
from scripts.bench.gpu_runs import Budget, Planned, Runner, planned_runs
from scripts.bench.gpu_variants import estimated_memory, too_large
from scripts.bench.gpu_work import Flops, Group
from scripts.bench.gpu_workload import SMOKE
from scripts.bench.process import ContenderFailed, run_process
from scripts.bench.training import BENCH


def test_every_second_round_goes_in_reverse_and_one_variant_has_both_packings():
    runs = planned_runs([SMOKE], ["checkpointing", "lora"], ["shared_prefix", "padded"], 2)
    assert [run.name for run in runs] == [
        "smoke_checkpointing_shared_prefix_0", "smoke_checkpointing_padded_0", "smoke_lora_shared_prefix_0",
        "smoke_lora_shared_prefix_1", "smoke_checkpointing_padded_1", "smoke_checkpointing_shared_prefix_1",
    ]  # fmt: skip


WAITS = ["bash", "-c", "trap 'echo saved >saved; exit' TERM; echo >ready; while true; do sleep 0.01; done"]


def test_a_run_that_has_done_enough_is_killed_which_is_no_failure(tmp_path):
    ready = tmp_path / "ready"
    run_process("a", WAITS, tmp_path, tmp_path / "log", {}, 60.0, lambda: None, enough=ready.exists)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(("end_seconds", "saves"), [(0.0, False), (20.0, True)])
def test_a_run_that_takes_too_long_may_end_by_itself_or_not(tmp_path, end_seconds, saves):
    def watch():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)

    with pytest.raises(ContenderFailed, match="not done after 0 s"):
        run_process("a", WAITS, tmp_path, tmp_path / "log", {}, 0.0, watch, end_seconds=end_seconds)
    assert (tmp_path / "saved").exists() == saves


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_run_is_started_if_the_longest_of_its_kind_fits():
    clock, first, padded = Clock(), Planned(SMOKE, 0, "lora", "shared_prefix"), Planned(SMOKE, 0, "lora", "padded")
    budget = Budget(100.0, clock)
    assert budget.refusal(first) is None  # nothing is known yet
    budget.took(first, 30.0)
    budget.took(first, 20.0)
    clock.now += 69.0
    assert budget.refusal(first) is None
    assert budget.refusal(padded) is None  # of a new kind: as the longest of all
    clock.now += 2.0
    assert budget.refusal(first) == "not enough time: it takes about 30 s, and 29 s are left"
    budget.took(padded, 10.0)
    assert budget.refusal(padded) is None
    clock.now += 100.0
    assert budget.refusal(padded) == "not enough time: it takes about 10 s, and 0 s are left"
    assert Budget(None, clock).refusal(padded) is None


OPTIONS = Namespace(
    launch="local", trainers=1, rollout="scripted", prompts=2, samples=2, response_tokens=4, steps=2, warm_up=1,
    timeout=600.0, overrides=[], smoke=True,
)  # fmt: skip
REPORT = {"seconds": {"update_actor": 2.0}, "update_mfu": 0.5}


def runner(folder, monkeypatch, outcomes):
    """A runner with 100 s, whose runs take 40 s; those named in `outcomes` fail after so many seconds more."""
    clock, kept = Clock(), []
    made = Runner(folder, OPTIONS, 300.0, None, Budget(100.0, clock), lambda: kept.append(gpu.as_json({}, made)))

    def train(self, run, config):
        clock.now += 40.0 + outcomes.get(run.name, 0.0)
        if run.name in outcomes:
            raise ContenderFailed(f"{run.name}: exit code 1")
        return Step((Group(3, (4,), ((2, 2),)),), {"decoder": Flops(1e12, 2e12)}), REPORT

    monkeypatch.setattr(Runner, "_train", train)
    return made, kept


def test_runs_beyond_the_budget_are_left_out_and_each_run_is_kept(tmp_path, monkeypatch):
    made, kept = runner(tmp_path, monkeypatch, {})
    made.run_all(list(planned_runs([SMOKE], ["checkpointing", "lora"], ["shared_prefix", "padded"], 1)))
    found = [json.loads(text) for text in kept]
    packings = [list(text["cases"]["smoke"]["checkpointing"]["packings"]) for text in found]
    assert packings == [["shared_prefix"], ["shared_prefix", "padded"], ["shared_prefix", "padded"]]
    assert "lora" not in found[-1]["cases"]["smoke"]
    reason = "not enough time: it takes about 40 s, and 20 s are left"
    assert found[-1]["skipped"] == [{"run": "smoke_lora_shared_prefix_0", "reason": reason}]
    assert found[-1]["failures"] == []


def test_a_run_that_fails_is_a_failure_and_one_that_the_budget_ends_is_left_out(tmp_path, monkeypatch):
    made, _ = runner(
        tmp_path, monkeypatch, {"smoke_checkpointing_shared_prefix_0": 0.0, "smoke_lora_shared_prefix_0": 20.0}
    )
    made.run_all(list(planned_runs([SMOKE], ["checkpointing", "lora"], ["shared_prefix"], 1)))
    name = "smoke_checkpointing_shared_prefix_0"
    assert made.failures == [{"run": name, "reason": f"{name}: exit code 1"}]
    reason = "ended after 60 s: the time is used up"
    assert made.skipped == [{"run": "smoke_lora_shared_prefix_0", "reason": reason}]
    assert made.cases() == {}


def model_folder(folder: Path) -> Path:
    """80 parameters: 64 of one decoder layer, 16 of one of two vision blocks."""
    import torch
    from safetensors.torch import save_file

    text = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
            "vocab_size": 5, "intermediate_size": 6}  # fmt: skip
    vision = {"hidden_size": 4, "depth": 2, "intermediate_size": 5}
    config = {"model_type": "qwen2_5_vl", "text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    names = {"model.language_model.layers.0.mlp.down_proj.weight": 8, "model.visual.blocks.0.attn.qkv.weight": 4}
    save_file({name: torch.zeros(side, side) for name, side in names.items()}, folder / "model.safetensors")
    return folder


def test_the_estimate_of_memory_by_hand(tmp_path):
    """Groups of 10 tokens and 24 patches; two of them fit into 25 tokens."""
    folder, group = model_folder(tmp_path), Group(prompt=4, responses=(3, 3), grids=((2, 4), (4, 4)))

    def estimate(*overrides):
        config = load_config(
            "train",
            ["experiment=bench_gpu", "data.train_files=[none]", "cluster=local", "rollout=scripted",
             f"model.path='{folder}'", "actor.tokens_per_forward=25", "actor.logprob_chunk_tokens=7", *overrides],
            [str(BENCH)],
        )  # fmt: skip
        return estimated_memory(config, group), config

    found, config = estimate("actor.gradient_checkpointing=false")
    everything = {"parameters": 4 * 80, "gradients": 4 * 80, "optimizer states": 8 * 80, "logits chunk": 2 * 4 * 7 * 5}
    token, patch = 16 * 8 + 10 * (8 + 4) + 8 * 6, 16 * 4 + 10 * (4 + 4) + 8 * 5
    kept = {"activations": 20 * token * 3, "vision tower's activations": 48 * patch * 2}
    assert found == everything | kept
    found, _ = estimate()
    kept = {
        "activations": 20 * token + 2 * 20 * 8 * 3, "vision tower's activations": 48 * patch + 2 * 48 * 4 * 2
    }  # fmt: skip
    assert found == everything | kept
    adapters = 2 * (8 + 8)
    found, _ = estimate("actor.lora.rank=2")
    assert found["parameters"] == 4 * (80 + adapters)
    assert (found["gradients"], found["optimizer states"]) == (4 * adapters, 8 * adapters)
    assert "vision tower's activations" not in found
    found, _ = estimate("rollout=hf", "rollout.max_num_seqs=3", "rollout.max_model_len=50000")
    assert found["engine"] == 2 * 80 + 2 * 3 * 1 * 4 * 2 * 3 * 50000
    found, _ = estimate("rollout=hf", "cluster.placement=colocated", "cluster.device=cuda")
    assert "engine" not in found  # it sleeps
    needed = sum(estimate("actor.gradient_checkpointing=false")[0].values()) / 2**30
    assert too_large(config, group, needed / 0.9 * 1.001) is None
    refusal = too_large(config, group, needed / 0.9 * 0.999)
    assert refusal is not None
    assert refusal.startswith("does not fit: needs about 0.0 GiB (parameters 0.0, ")


def test_a_run_that_cannot_fit_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_runs.Runner, "_too_large", lambda self, run, config: "does not fit: needs about 150.0 GiB")
    made, _ = runner(tmp_path, monkeypatch, {})
    made.run_all(list(planned_runs([SMOKE], ["no_checkpointing"], ["shared_prefix"], 1)))
    assert made.skipped == [
        {"run": "smoke_no_checkpointing_shared_prefix_0", "reason": "does not fit: needs about 150.0 GiB"}
    ]


def test_a_report_is_there_before_the_first_run(tmp_path, monkeypatch):
    def killed(folder, options):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "make_workload", killed)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--smoke", "--folder", str(tmp_path / "work"), "--json", str(tmp_path / "kept.json")])
    report = json.loads((tmp_path / "kept.json").read_text())
    assert (report["cases"], report["skipped"], report["failures"]) == ({}, [], [])
