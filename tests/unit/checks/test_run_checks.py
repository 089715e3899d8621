"""What a run looks at before it reads any data."""

import importlib.util

import pytest

from mars.checks.packages import check_packages
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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(SetupError, match=package) as refusal:
        check_packages(config)
    assert remedy in str(refusal.value)
    assert refusal.value.exit_code == 4


def test_packages_that_no_setting_needs_are_not_missed(monkeypatch):
    config = load_config("train", ["data.train_files=[rows.parquet]", "rollout=hf"], [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_packages(config)
