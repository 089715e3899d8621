"""What a run and a dry run say of a reward before anything starts: it fails, or it misses right answers."""

import logging
import re
import shlex
from functools import partial
from types import SimpleNamespace

import pytest

from mars.checks.rewards import try_rewards
from mars.cli.app import app
from mars.config.load import load_config
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import ImageBudget
from mars.errors import ConfigError
from mars.rewards.local import LocalScorer
from mars.rewards.pool import RewardPool
from tests.builders import make_prompt

PROMPTS = [make_prompt(f"p{row}", [], [], truth=truth) for row, truth in enumerate(["7", "8", "{x}", "red", "late"])]

FUNCTIONS = r"""
def tags(item):
    return float(f"<answer>{item.truth}</answer>" in item.response)
def boxed(item):
    return float(r"\boxed{%s}" % item.truth in item.response)
def bare(item):
    return float(item.response == item.truth)
def negative(item):
    return -1.0 if f"<answer>{item.truth}</answer>" in item.response else -2.0
def only_late(item):
    return float(item.truth == "late")
def never(item):
    return float(item.response == "the fourth form")
def inverted(item):
    return 0.0 if item.truth in item.response else 1.0
def raises(item):
    return 1 / len([])
def raises_on_numbers(item):
    int(item.truth) and 1 / 0
def raises_on_words(item):
    return float(int(item.truth) == 7 and "7" in item.response)
def raises_without_an_answer(item):
    return 1 / ("<answer></answer>" not in item.response)
def ranked(items):
    return [0.0] * len(items)
"""


@pytest.fixture
def tried(request, tmp_path, caplog):
    """Name of a function -> what is logged when it is tried."""
    file = tmp_path / "own.py"
    file.write_text(FUNCTIONS)

    def run(name, *overrides):
        function = f"{file}:{name}"
        given = ["model.path=/m", "data.train_files=[/r.jsonl]", f"reward.function={function}", *overrides]
        config = load_config("train", given, [])
        inputs = SimpleNamespace(config=config, frames=BoxFrames("resized_pixels", ImageBudget(784, 50176, 14, 2)))
        lists = partial(RewardPool, num_workers=1, timeout_s=30.0, by_prompt=True)
        scorer = (lists if config.reward.by_prompt else LocalScorer)(function, "strict")
        request.addfinalizer(scorer.close)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            try_rewards(scorer, inputs, PROMPTS)
        return [record.getMessage() for record in caplog.records if record.name == "mars.checks.rewards"]

    return run


@pytest.mark.parametrize("name", ["tags", "boxed", "bare", "negative"])
def test_a_reward_that_gives_more_for_some_usual_form_of_the_right_answer_is_fine(tried, name):
    assert tried(name) == []


@pytest.mark.parametrize(("name", "scores"), [("never", "0 and 0"), ("inverted", "0 and 1"), ("only_late", "0 and 0")])
def test_a_reward_that_gives_no_more_for_the_right_answer_is_named_with_both(tried, name, scores):
    [message] = tried(name)
    assert f"own.py:{name}: scores the right answer no higher than an empty one in the first rows" in message
    assert f"got {scores} for '<think>The truth.</think><answer>7</answer>' and '<think></think><answer>" in message
    assert "mars reward try" in message


def test_a_reward_that_always_fails_is_refused(tried):
    for name in ("raises", "raises_on_numbers"):
        with pytest.raises(ConfigError, match=r"reward.function: failed on each of the 4 items of its self-test"):
            tried(name)


def test_the_refusal_has_a_command_that_repeats_the_failure(tried, capsys):
    with pytest.raises(ConfigError) as refused:
        tried("raises")
    command = shlex.split(str(refused.value).partition("; try it: ")[2])
    assert command[:3] == ["mars", "reward", "try"]
    with pytest.raises(ConfigError, match="raises failed on 1 of 1 answers; the first: ZeroDivisionError"):
        app(command[1:], standalone_mode=False)
    assert re.search(r"^answer +7$", capsys.readouterr().out, re.MULTILINE)


def test_a_reward_that_fails_on_an_empty_answer_is_named_with_what_becomes_of_such_responses(tried):
    [message] = tried("raises_without_an_answer")
    assert "own.py:raises_without_an_answer: fails on the empty answer to 4 of 4 rows; the first: ZeroDiv" in message
    assert message.endswith("are left out of training, so let it return a score of 0 instead")


def test_a_reward_that_fails_on_some_right_answers_is_named_with_the_number(tried):
    [message] = tried("raises_on_words")
    assert "own.py:raises_on_words: fails on the right answer to 2 of 4 rows; the first: " in message
    assert "ValueError" in message


def test_lists_of_one_answer_have_no_rank(tried):
    assert tried("ranked", "reward.by_prompt=true") == []
