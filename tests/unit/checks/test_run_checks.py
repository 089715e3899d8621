"""What a run looks at before it reads any data."""

import importlib.util

import pytest

from mars.checks import packages
from mars.checks.packages import check_packages, machine_lines, may_have_gpu
from mars.config.load import load_config
from mars.errors import SetupError


@pytest.mark.parametrize(
    ("overrides", "package", "remedy"),
    [
        (["cluster.device=cpu"], "vllm", "rollout=hf"),
        (["rollout=hf", "model.attention=flash_attention_2"], "flash_attn", "model.attention=sdpa"),
    ],
)
def test_a_missing_package_is_named_with_what_to_do(monkeypatch, overrides, package, remedy):
    config = load_config("train", ["data.train_files=[rows.parquet]", *overrides], [])
    found = importlib.util.find_spec
    monkeypatch.setattr(packages, "may_have_gpu", lambda environment: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(SetupError, match=package) as refusal:
        check_packages(config)
    assert remedy in str(refusal.value)
    assert refusal.value.exit_code == 4


def test_packages_that_no_setting_needs_are_not_missed(monkeypatch):
    config = load_config("train", ["data.train_files=[rows.parquet]", "rollout=hf", "cluster.device=cpu"], [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_packages(config)


@pytest.mark.parametrize(
    ("kind", "overrides", "remedy"),
    [
        ("train", [], "experiment=quickstart cluster=local rollout=hf actor.num_workers=1"),
        ("train", ["cluster=local", "rollout=hf"], "experiment=quickstart cluster=local rollout=hf"),
        ("sft", [], "cluster=local cluster.device=cpu"),
    ],
)
def test_a_machine_without_a_gpu_is_told_what_runs_on_it(monkeypatch, kind, overrides, remedy):
    monkeypatch.setattr(packages, "may_have_gpu", lambda environment: False)
    config = load_config(kind, ["data.train_files=[rows.parquet]", *overrides], [])
    with pytest.raises(SetupError, match=r"^cluster\.device: this machine has no GPU; got cuda; ") as refusal:
        check_packages(config)
    assert remedy in str(refusal.value)
    assert machine_lines(config) == [f"warning           on this machine the run would not start: {refusal.value}"]


def test_what_the_message_gives_needs_no_gpu():
    given = ["experiment=quickstart", "cluster=local", "rollout=hf", "actor.num_workers=1"]
    for kind, settings in (("train", given), ("sft", ["cluster=local", "cluster.device=cpu"])):
        config = load_config(kind, ["data.train_files=[rows.parquet]", *settings], [])
        assert (config.cluster.kind, config.cluster.device) == ("local", "cpu")


def test_the_gpus_of_a_cluster_that_is_joined_are_not_looked_for_here(monkeypatch):
    monkeypatch.setattr(packages, "may_have_gpu", lambda environment: False)
    check_packages(load_config("train", ["data.train_files=[rows.parquet]", "cluster.address='10.0.0.1:6379'"], []))


def test_a_driver_or_what_hides_its_gpus(tmp_path):
    driver = tmp_path / "nvidiactl"
    assert not may_have_gpu({}, [str(driver)])
    driver.touch()
    assert may_have_gpu({}, [str(tmp_path / "kfd"), str(driver)])
    assert may_have_gpu({"CUDA_VISIBLE_DEVICES": "0"}, [str(driver)])
    assert not may_have_gpu({"CUDA_VISIBLE_DEVICES": ""}, [str(driver)])
