"""The command and what its benchmarks set up: settings, a workload, the same work for both sides."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from mars.algorithms.advantages import group_advantages
from mars.config.load import load_config
from scripts.bench import contenders, gpu, gpu_report, gpu_runs, reward
from scripts.bench.advantages import MARS, flat_tensors, plain_advantages, random_prompts
from scripts.bench.gpu_variants import VARIANTS
from scripts.bench.gpu_workload import CASES
from scripts.bench.paths import path_option
from scripts.bench.training import BENCH

ROOT = Path(__file__).parents[3]


def test_the_command_names_its_benchmarks_and_imports_none_of_them():
    code = (
        "import runpy, sys\nsys.argv = ['bench.py', '--help']\n"
        "try: runpy.run_path('scripts/bench.py', run_name='__main__')\n"
        "except SystemExit: print({'torch', 'transformers', 'mars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.endswith("set()\n")
    for name in ("step", "trainer", "anchors", "scale", "advantages", "gpu"):
        assert f"\n  {name} " in done.stdout


def test_the_loop_and_the_tensors_give_the_same_advantages():
    prompts = random_prompts(200, 8, 2, seed=0)
    assert len({len(multi) for multi, _ in prompts}) > 3  # ragged
    values = group_advantages(*flat_tensors(prompts), len(prompts), MARS).values
    assert values.tolist() == pytest.approx(plain_advantages(prompts), abs=1e-12)
    assert float(values.abs().max()) > 1


@pytest.mark.parametrize(("text", "score"), [("abz", 2 / 3), ("NOPE am", 3 / 6), ("", 0.0), ("12 é", 0.0)])
def test_both_trainers_get_the_same_reward(text, score):
    assert reward.score(text, "none") == score
    assert reward.score_completions([[{"role": "assistant", "content": text}]], other=1) == [score]


PLAN = contenders.Plan(Path("/bench"), 12, 3, trl_threads=2, trl_sequences_per_forward=64, timeout=60.0)


@pytest.mark.parametrize("contender", contenders.OURS)
def test_our_contenders_differ_only_where_they_say(contender, tmp_path):
    config = load_config(
        "train", contenders.overrides(contender, PLAN, tmp_path / "it's, here"), [str(contenders.BENCH)]
    )
    common = contenders.step_settings()
    views = 2 if config.anchor.kind == "mono" else 0
    assert config.rollout.samples_per_prompt + views * config.anchor.samples_per_view == 8
    assert (config.data.prompts_per_step, config.actor.prompts_per_update) == (16, 16)
    assert config.rollout.max_response_tokens == 24
    assert config.algorithm.model_copy(update={"kl_reference": common.model.path}) == common.algorithm
    assert config.algorithm.kl_coefficient == 0
    assert config.rollout.model_copy(update={"samples_per_prompt": 8}) == common.rollout
    assert config.actor.model_copy(update={"num_workers": 2}) == common.actor
    assert config.run.dir == str(tmp_path / "it's, here")


def options(**changes) -> Namespace:
    given = {
        "launch": "local", "trainers": 1, "rollout": "vllm", "prompts": 4, "samples": 3, "response_tokens": 10,
        "steps": 3, "warm_up": 1, "rounds": 1, "peak_tflops": None, "overrides": [], "smoke": False,
        "packings": list(gpu_report.PACKINGS), "timeout": 60.0,
    }  # fmt: skip
    return Namespace(**given | changes)


def config_of(case, packing="shared_prefix", variant="checkpointing", **changes):
    return load_config(
        "train",
        [
            "experiment=bench_gpu",
            "data.train_files=[none]",
            *gpu_runs.run_overrides(case, VARIANTS[variant], packing, options(**changes)),
        ],
        [str(BENCH)],
    )


def test_packings_differ_in_nothing_else():
    ours, padded = (config_of(CASES["two_1280x1024"], packing) for packing in gpu_report.PACKINGS)
    assert (ours.actor.packing, padded.actor.packing) == ("shared_prefix", "padded")
    assert ours.model_copy(update={"actor": padded.actor}) == padded
    assert ours.actor.model_copy(update={"packing": "padded"}) == padded.actor
    assert ours.model.dtype == "bfloat16"
    assert ours.actor.gradient_checkpointing
    assert ours.data.prompts_per_step == 2 * ours.actor.prompts_per_update


def test_variants_differ_only_where_they_say():
    changed = {}
    usual = config_of(CASES["two_1280x1024"], rollout="scripted", response_tokens=100).dotted()
    for name in VARIANTS:
        found = config_of(CASES["two_1280x1024"], variant=name, rollout="scripted", response_tokens=100).dotted()
        changed[name] = {key: value for key, value in found.items() if value != usual[key]}
    small = {
        "rollout.engine": "hf", "rollout.max_num_seqs": 16, "rollout.max_response_tokens": 64,
        "rollout.max_model_len": usual["rollout.max_model_len"] - 36,
        "data.prompts_per_step": 2, "actor.prompts_per_update": 1,
    }  # fmt: skip
    assert usual["rollout.engine"] == "scripted_full_length"
    assert usual["actor.gradient_checkpointing"]
    assert changed == {
        "checkpointing": {},
        "no_checkpointing": {"actor.gradient_checkpointing": False, "actor.tokens_per_forward": 8192},
        "lora": {"actor.lora.rank": 64, "actor.lora.alpha": 64.0, "actor.learning_rate": 1e-4},
        "hf_engine": small,
        "colocated": small | {"cluster.placement": "colocated"},
    }


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpus_seen", list)
    assert gpu.main([]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no GPU: ")
    assert err.count("\n") == 1


def test_every_path_among_the_options_may_begin_with_the_home(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_option("~/a b.json") == tmp_path / "a b.json"
    plain = [
        file.name
        for file in (ROOT / "scripts/bench").glob("*.py")
        if '"--' in file.read_text() and "type=Path" in file.read_text()
    ]
    assert plain == []
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--smoke", "--folder=~nobody_here/x"])
    assert stopped.value.code == 2
    assert "--folder: path: no user has this home; got '~nobody_here/x'" in capsys.readouterr().err
