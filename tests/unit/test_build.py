"""mars/build.py: what is sent to the workers, and which engine is made there."""

from __future__ import annotations

import pickle

import pytest

from mars.build import EngineSpec, TrainerSpec
from mars.config.schema import TrainConfig
from mars.rollout.scripted import ScriptedEngine
from mars.types import RolloutRequest, Sampling, TokenRules
from tests.builders import train_config

RULES = TokenRules(image_id=5, blocked_ids=(5, 6), eos_ids=(7,), pad_id=0)


@pytest.mark.parametrize("section", [name for name in TrainConfig.model_fields if name != "ramps"])
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


@pytest.mark.parametrize(("engine", "full_length"), [("scripted", False), ("scripted_full_length", True)])
def test_scripted_responses_have_the_full_length_if_the_settings_say_so(engine, full_length):
    rules = TokenRules(image_id=5, blocked_ids=(5, 6), eos_ids=(3,), pad_id=0)
    config = train_config({"rollout.engine": engine})
    request = RolloutRequest("x", None, (1, 2), (), 40, 0, Sampling(1.0, 1.0, 0, 9))
    responses = [
        sample.completion.token_ids
        for batch in EngineSpec(config, rules, 3)(iter).generate([request])
        for sample in batch
    ]
    assert ({len(response) for response in responses} == {9}) == full_length
    assert {token for response in responses for token in response} == ({0, 1, 2, 4} if full_length else {0, 1, 2, 3, 4})
    assert len(set(responses)) > 20
