"""A run that is resumed with other hooks than its checkpoint has the state of: refused before anything is written."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mars import run
from mars.checkpoint.resume import StartingPoint
from mars.checkpoint.state import RunState
from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.step_parts import SamplingState
from tests.builders import train_config
from tests.hook_builders import NO_HOOKS
from tests.unit.hooks.test_prompt_sampler import PROMPTS


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"sampler": {"name": "vade:Sampler", "decided": {}, "state": {}}, "advantage": {}}, r"^recipe\.sampler: "),
        ({"sampler": {}, "advantage": {"own:Rarely": {"seen": {"p0": 1}}}}, r"^recipe\.advantage: .*own:Rarely"),
    ],
)  # fmt: skip
def test_it_is_refused_before_the_record_of_the_run_changes(monkeypatch, tmp_path, state, problem):
    start = StartingPoint(RunState(2, SamplingState(2, (), hooks=json.dumps(state)), {}, True), None, 2)
    reached = []
    changed = {
        "check_packages": lambda config: None,
        "checked_hooks": lambda config: NO_HOOKS,
        "_checked_inputs": lambda *given, **named: SimpleNamespace(train=SimpleNamespace(prompts=PROMPTS)),
        "training_stream": lambda config, inputs: (PromptStream(PROMPTS, 2, 0, True), {}),
        "enter_run": lambda config, lock: SimpleNamespace(events=None),
        "start_unless_complete": lambda *given: reached.append("start") or start,
        "record_attempt": lambda *given: pytest.fail("the run's record is changed"),
    }
    for name, fake in changed.items():
        monkeypatch.setattr(run, name, fake)
    with pytest.raises(ConfigError, match=problem):
        run.run(train_config({"run.dir": str(tmp_path)}), None, [], None)
    assert reached == ["start"]
