"""The shortcut of tests/quick_composition.py and Hydra make the same configurations and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mars.config import compose
from mars.config.load import load_config
from mars.errors import ConfigError
from tests.quick_composition import quick_compose, real_compose

ROOT = Path(__file__).parents[3]
EXPERIMENTS = sorted([*ROOT.glob("configs/experiment/*.yaml"), *ROOT.glob("recipe/*/experiment/*.yaml")])
RECIPE = [str(ROOT / "recipe" / "dapo")]


def loaded(overrides, folders):
    try:
        return load_config("train", overrides, folders)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(
    ("overrides", "folders"),
    [
        (["data.train_files=[a, b]", "run.seed=3", "run.seed=4", "model.path='a b'"], []),
        (["experiment=mars_dapo_tiny", "data.train_files=[a]", "rollout=hf", "anchor=none", "run.name=null"], RECIPE),
        (["data.train_files=[a]", "data.source_image_pixels={a: [3136, 9000]}", "anchor=mono"], []),
        (["data={train_files: [a], shuffle: false}"], []),
        (["data.train_files=[a]", "run.dir=${run.name}/x", "rollout.top_p=2", "anchor=stereo"], []),
        (["experiment=none_such", "data.train_files=[a]"], RECIPE),
    ],
)
def test_both_ways_are_one(monkeypatch, overrides, folders):
    monkeypatch.setattr(compose, "_compose", real_compose)
    slow = loaded(overrides, folders)
    monkeypatch.setattr(compose, "_compose", quick_compose)
    assert loaded(overrides, folders) == loaded(overrides, folders) == slow


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_both_ways_are_one_for_every_experiment(path):
    root = "sft" if "\nsft:" in path.read_text() else "train"
    folders = [] if path.is_relative_to(ROOT / "configs") else [path.parents[1]]
    for more in ([], ["anchor=mono"]) if root == "train" else ([],):
        given = (root, folders, [*more, f"experiment={path.stem}", "run.name=null"])
        (quick, _), (slow, _) = quick_compose(*given), real_compose(*given)
        assert OmegaConf.to_yaml(quick) == OmegaConf.to_yaml(slow)
        assert OmegaConf.is_struct(quick) == OmegaConf.is_struct(slow)
