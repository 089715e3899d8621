"""What a run refuses as soon as its rows are read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mars import run
from mars.config.load import load_config
from mars.errors import ConfigError


@pytest.mark.parametrize(("num_prompts", "finished"), [(4, 1), (3, 0)])
def test_a_step_of_more_prompts_than_there_are_is_refused_before_the_model_check_ends(
    monkeypatch, num_prompts, finished
):
    inputs, ended = SimpleNamespace(train=SimpleNamespace(prompts=(None,) * num_prompts)), []
    monkeypatch.setattr(run, "load_inputs", lambda config, with_training_set: inputs)
    settings = ["data.train_files=[x]", "data.prompts_per_step=4", "actor.prompts_per_update=4"]
    config, check = load_config("train", settings, []), SimpleNamespace(finish=lambda: ended.append(1))
    if num_prompts == 4:
        assert run._checked_inputs(config, check, with_training_set=True) is inputs
    else:
        with pytest.raises(ConfigError, match=r"^data\.prompts_per_step: .*; got 4 with 3 prompts in the data"):
            run._checked_inputs(config, check, with_training_set=True)
    assert len(ended) == finished
