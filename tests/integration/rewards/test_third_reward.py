"""A third built-in reward through settings, checks, dry run and evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mars.build import evaluation_parts
from mars.checks.answers import answered_perfectly
from mars.checks.data import check, check_lines
from mars.checks.rewards import try_rewards
from mars.cli.check import run_check
from mars.config.load import load_config
from mars.errors import ConfigError
from mars.evaluation.ask import evaluate
from mars.inputs import load_inputs, rewards_of
from mars.rewards.built_in import BUILT_IN
from mars.rewards.local import LocalScorer
from tests.fakes.count_reward import COUNT
from tests.fakes.engine import RecordingEngine
from tests.unit.evaluation.result_files import vqa_text


@pytest.fixture(autouse=True)
def third(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "count", COUNT)


@pytest.fixture
def configure(tmp_path, tiny, pictures):
    """truths -> settings for rows of two images with these truths."""

    def make(truths, *overrides):
        rows = [
            {
                "data_source": "counting",
                "prompt": [{"role": "user", "content": f"<image><image>How many, in scene {number}?"}],
                "images": [image.path.rsplit("/", 1)[1] for image in pictures[:2]],
                "reward_model": {"ground_truth": truth},
            }
            for number, truth in enumerate(truths)
        ]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = [
            "cluster.device=cpu", f"model.path='{tiny}'", f"data.train_files=['{file}']",
            f"data.eval_files=['{file}']", f"data.image_root='{pictures[0].path.rsplit('/', 1)[0]}'",
            "data.min_image_pixels=784", "data.max_image_pixels=50176", "data.max_prompt_tokens=300",
            "rollout.max_response_tokens=200", "rollout.max_model_len=500", "reward.function=count",
        ]  # fmt: skip
        return load_config("train", [*given, *overrides], [])

    return make


def test_the_settings_take_its_name_and_say_it(configure):
    assert configure(["3"], "data.template=count").data.template == "count"
    assert configure(["3"], "reward.scorer=compat").reward.scorer == "compat"
    assert configure(["3"], "reward.functions={counting: count}").reward.functions == {"counting": "count"}
    with pytest.raises(
        ConfigError, match=r"^reward\.function: .*'counting'; want one of grounding, vqa,.* count or path"
    ):
        configure(["3"], "reward.function=counting")
    with pytest.raises(ConfigError, match=r"^data\.template: .*; give auto, grounding, vqa,.* count, none or path"):
        configure(["3"], "data.template=counting")


def test_the_check_judges_truths_and_agreement_by_it(configure, tmp_path, monkeypatch):
    config = configure(["3", "three", "12"])
    result = check(config, config.data.train_files, [])
    assert [(problem.reason, problem.detail) for problem in result.problems] == [
        ("truth", "truth: no number; got 'three'")
    ]
    assert any(line.startswith("reward         count") for line in check_lines(result, config))
    monkeypatch.setitem(BUILT_IN, "count", replace(COUNT, perfect_answer=lambda item: "<answer>about 3</answer>"))
    config = configure(["3", "12"])
    result = check(config, config.data.train_files, [])
    assert {(problem.reason, problem.detail) for problem in result.problems} == {
        ("agreement", "a perfect answer scores 0.000, not 1")
    }


def test_the_check_takes_it_where_no_reward_is_given(configure, tiny, monkeypatch, capsys):
    config = configure(["3", "12"])
    monkeypatch.delitem(BUILT_IN, "vqa")  # the first of the table for texts is now "count"
    (file,) = config.data.train_files
    run_check([file, f"data.image_root={config.data.image_root}", "data.min_image_pixels=784"], [], str(tiny), [])
    assert "reward         count" in capsys.readouterr().out


def test_the_self_test_answers_perfectly(configure):
    config = configure(["3", "12"])
    inputs = load_inputs(config, with_training_set=True)
    (prompt, _) = inputs.train.prompts
    assert "as short as possible" in prompt.messages[-1].text, "the template of vqa"
    item = answered_perfectly(prompt, None, "count", inputs.frames)
    assert item.response == f"<think>I counted.</think><answer>{prompt.truth}</answer>"

    class Watched(LocalScorer):
        def score(self, items):
            self.seen = list(items)
            return super().score(self.seen)

    scorer = Watched("count", "strict")
    try_rewards(scorer, inputs, inputs.train.prompts)
    assert item in scorer.seen


def test_an_evaluation_calls_its_accuracy_by_its_metric(configure):
    config = configure(["3", "12"], "evaluation.samples_per_prompt=3")
    inputs = load_inputs(config, with_training_set=False)
    truths = {prompt.prompt_id: int(prompt.truth) for prompt in inputs.evaluation.prompts}

    def script(request, k):
        """Right, off by one, and no number; of single images always off by one."""
        words = (truths[request.prompt_id], truths[request.prompt_id] + 1, "many")
        return inputs.encoder.encode_response(vqa_text(str(words[k if request.view is None else 1])))

    engine = RecordingEngine(script, inputs.encoder.token_rules().eos_ids)
    parts = evaluation_parts(config, inputs, engine, LocalScorer(rewards_of(config), "strict"))
    result = evaluate(parts, inputs.evaluation.prompts, name="e", step=0, model="m").result
    assert result["metric"] == "closeness"
    assert result["multi"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert {source: value["mean"] for source, value in result["mono"].items()} == {"view_1": 0.5, "view_2": 0.5}
    assert (result["unparseable"], result["failed"], result["share_over_threshold"]) == (2, 0, None)
    assert result["compat"]["multi"] == result["multi"], "it has one scorer"
