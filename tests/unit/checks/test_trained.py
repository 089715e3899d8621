from __future__ import annotations

import json

import pytest

from mars.checks.trained import check_trained
from mars.errors import ConfigError
from tests.builders import train_config


@pytest.fixture
def configured(tmp_path):
    """family, settings -> the configuration of a model folder of that family."""

    def make(family, **settings):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        return train_config(path=str(tmp_path), **settings)

    return make


def test_parts_of_an_unknown_family_are_refused_before_the_run(configured):
    config = configured("llava", freeze=["vision"])
    with pytest.raises(ConfigError, match=r"actor\.freeze: the parts of a model of type llava"):
        check_trained(config)
    check_trained(configured("llava"))
    check_trained(configured("qwen3_vl", freeze=["vision"]))


def test_adapters_of_an_unknown_family_are_refused(configured):
    with pytest.raises(
        ConfigError, match=r"actor\.lora\.parts: the parts of a model of type llava.*; set actor.lora.rank=0"
    ):
        check_trained(configured("llava", **{"lora.rank": 8}))
