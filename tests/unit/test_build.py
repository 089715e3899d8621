"""mars/build.py: what is sent to the workers, and which engine is made there."""

from __future__ import annotations

import pickle

import pytest

from mars.build import EngineSpec, TrainerSpec
from mars.config.schema import TrainConfig
from mars.rollout.scripted import ScriptedEngine
from mars.types import TokenRules
from tests.builders import train_config

RULES = TokenRules(image_id=5, blocked_ids=(5, 6), eos_ids=(7,), pad_id=0)


@pytest.mark.parametrize("section", TrainConfig.model_fields)
def test_a_section_can_be_sent_to_a_worker(section):
    sent = getattr(train_config(), section)
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301 - made in this line
    assert received == sent
    with pytest.raises(ValueError, match="frozen"):
        setattr(received, next(iter(type(sent).model_fields)), None)


def test_what_builds_a_worker_is_small():
    for spec in (EngineSpec(train_config(), RULES, 3), TrainerSpec(train_config(), RULES)):
        sent = pickle.dumps(spec)
        assert pickle.loads(sent) == spec  # noqa: S301 - made above
        assert len(sent) < 10_000  # bytes; one message, beside weights of gigabytes


def test_the_engine_is_the_one_that_the_settings_name():
    engine = EngineSpec(train_config(engine="scripted"), RULES, 3)(iter)
    assert isinstance(engine, ScriptedEngine)
