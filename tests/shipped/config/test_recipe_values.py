"""The experiments of recipe/mars and recipe/dapo have the paper's values; their tiny variants are the same methods."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mars.config.compose import compose_files, resolved_leaves
from mars.config.load import load_config
from mars.config.schema import TrainConfig

ROOT = Path(__file__).parents[3]
FOLDERS = {"grpo": ROOT / "recipe" / "mars", "dapo": ROOT / "recipe" / "dapo"}
SIZES = ("qwen2_5_vl_3b", "tiny")
EXPERIMENTS = sorted(ROOT.glob("recipe/*/experiment/*.yaml"))

# The values of the paper's scripts, written down by hand: GRPO, DAPO.
PAPER = {
    "model.path": ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
    "run.num_epochs": (2, 2),
    "data.prompts_per_step": (128, 16),
    "data.max_prompt_tokens": (4096, 4096),
    "rollout.samples_per_prompt": (14, 12),
    "rollout.max_response_tokens": (8192, 8192),
    "rollout.temperature": (1.0, 1.0),
    "rollout.top_p": (0.9, 0.9),
    "rollout.tensor_parallel_size": (4, 4),
    "actor.prompts_per_update": (32, 16),
    "actor.learning_rate": (1e-6, 1e-6),
    "actor.warmup_steps": (0, 10),
    "actor.weight_decay": (0.01, 0.1),
    "actor.max_grad_norm": (1.0, 1.0),
    "algorithm.clip_low": (0.2, 0.2),
    "algorithm.clip_high": (0.2, 0.28),
    "algorithm.dual_clip": (None, 10.0),
    "algorithm.reduction": ("token_mean", "token_mean"),
    "algorithm.kl_coefficient": (0.001, 0.0),
    "algorithm.kl_estimator": ("k3", "k3"),
    "algorithm.kl_placement": ("loss", "loss"),
    "algorithm.entropy_coefficient": (0.0, 0.0),
    "algorithm.overlong_buffer_tokens": (None, 4096),
    "algorithm.overlong_factor": (1.0, 1.0),
    "algorithm.selection": ("all", "nonzero_advantage"),
    "evaluation.every": (50, 1000),
    "evaluation.temperature": (1.0, 1.0),
    "evaluation.top_p": (0.7, 0.7),
}
ADVANTAGE = {
    "algorithm.estimator": "group_norm",
    "algorithm.normalize_std": True,
    "algorithm.unbiased_std": True,
    "algorithm.std_floor": 0.0,
    "algorithm.epsilon": 1e-6,
    "algorithm.loss": "clip",
}
ANCHORS = {
    "anchor.kind": "mono",
    "anchor.samples_per_view": 1,
    "anchor.sampling": "policy",
    "anchor.image_layout": "single",
    "anchor.wording": "same",
    "anchor.pooled_statistics": "mean_and_std",
}


@cache
def values(method: str, experiment: str, *overrides: str) -> dict[str, Any]:
    """Dotted key -> value of an experiment of the recipe that has `method`."""
    config = load_config(
        "train", [f"experiment={experiment}", "data.train_files=[x.parquet]", *overrides], [str(FOLDERS[method])]
    )
    return config.dotted()


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one if one[key] != other[key]}


methods = pytest.mark.parametrize("method", FOLDERS)


def test_there_are_four_methods_each_at_two_sizes():
    names = {f"{anchors}{method}_{size}" for anchors in ("", "mars_") for method in FOLDERS for size in SIZES}
    assert {path.stem for path in EXPERIMENTS if path.parents[1] in FOLDERS.values()} == names


@methods
@pytest.mark.parametrize("anchors", ["", "mars_"])
def test_the_values_are_the_papers(method, anchors):
    found = values(method, f"{anchors}{method}_qwen2_5_vl_3b")
    column = list(FOLDERS).index(method)
    wanted = {key: pair[column] for key, pair in PAPER.items()} | ADVANTAGE
    wanted |= ANCHORS if anchors else {"anchor.kind": "none"}
    assert {key: found[key] for key in wanted} == wanted
    assert found["actor.num_workers"] + found["rollout.tensor_parallel_size"] == 8
    assert found["rollout.num_workers"] == 1


@methods
@pytest.mark.parametrize("size", SIZES)
def test_anchors_are_the_only_difference(method, size):
    plain, anchored = values(method, f"{method}_{size}"), values(method, f"mars_{method}_{size}")
    assert differing(plain, anchored) - {"run.name", "run.dir"} == {"anchor.kind"}
    assert values(method, f"mars_{method}_{size}", "anchor=none")["anchor.kind"] == "none"


@methods
@pytest.mark.parametrize("anchors", ["", "mars_"])
def test_the_tiny_variant_is_the_same_method(method, anchors):
    paper, tiny = (values(method, f"{anchors}{method}_{size}") for size in SIZES)
    of_the_method = {key for key in paper if key.startswith(("algorithm.", "anchor."))}
    sizes = {"algorithm.overlong_buffer_tokens"} if method == "dapo" else set()
    assert differing(paper, tiny) & of_the_method == sizes | {"algorithm.kl_reference"}
    assert tiny["algorithm.kl_reference"] == tiny["model.path"]
    assert (tiny["cluster.device"], tiny["rollout.engine"], tiny["cluster.kind"]) == ("cpu", "vllm", "ray")
    buffer = tiny["algorithm.overlong_buffer_tokens"]
    assert buffer is None or 0 < buffer < tiny["rollout.max_response_tokens"]


def test_the_tiny_variants_are_the_quick_starts_run():
    """Its data and model, sizes and optimizer: only the method and the folder are their own."""
    quick_start = load_config("train", ["experiment=quickstart"], []).model_dump()
    for method, folder in FOLDERS.items():
        given = load_config("train", [f"experiment={method}_tiny"], [str(folder)]).model_dump()
        for section in ("model", "data", "rollout", "actor", "reward", "cluster"):
            assert given[section] == quick_start[section], (method, section)


def test_no_two_recipes_share_a_name():
    names = [path.stem for path in [*EXPERIMENTS, *ROOT.glob("configs/experiment/*.yaml")]]
    assert len(set(names)) == len(names)
    load_config("train", ["experiment=mars_dapo_tiny"], [str(folder) for folder in FOLDERS.values()])


def test_an_experiment_says_nothing_twice():
    """A value that the files below an experiment have already would be a second home for it."""
    twice, composed = [], {}
    for path in EXPERIMENTS:
        text = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        entries = text.pop("defaults")
        below = [f"experiment={entry}" for entry in entries if isinstance(entry, str) and entry != "_self_"]
        below += [
            f"{name.partition('/')[2]}={entry[name]}" for entry in entries if isinstance(entry, dict) for name in entry
        ]
        files = (*below, str(path.parents[1]))
        if files not in composed:
            composition = compose_files("train", TrainConfig, below, [str(path.parents[1])])
            composed[files] = flat(resolved_leaves(composition.config, composition.known.mappings)[0])
        there = composed[files]
        twice += [f"{path.name}: {key}" for key, value in flat(text).items() if key in there and there[key] == value]
    assert twice == []


@methods
def test_the_readme_shows_the_values(method):
    """Each row "| `key` | value | source |" of the recipe's table; "anchor" rows are those of the anchored variant."""
    text = (FOLDERS[method] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `?([^|`]*)`? \| ([^|]+) \|$", text, re.MULTILINE)
    shown = {key: yaml.safe_load(value) for key, value, _ in rows}
    found = values(method, f"mars_{method}_qwen2_5_vl_3b")
    assert {key: found[key] for key in shown} == shown
    changed = {key for key, pair in PAPER.items() if pair[0] != pair[1]} | set(ANCHORS)
    assert changed <= set(shown)
    for path in EXPERIMENTS:
        if path.is_relative_to(FOLDERS[method]):
            assert f"`{path.stem}`" in text
