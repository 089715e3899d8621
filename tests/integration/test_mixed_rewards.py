"""Several sets in one run, each with the reward of its own: from files and settings to a step and an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mars.build import evaluation_parts
from mars.checks.answers import answered_perfectly
from mars.checks.data import check, check_lines
from mars.checks.dry_run import report
from mars.checks.rewards import try_rewards
from mars.config.load import load_config
from mars.errors import ConfigError, DataError
from mars.evaluation.ask import evaluate
from mars.inputs import load_inputs, prompt_stream, rewards_of
from mars.rewards.contract import failed_result
from mars.rewards.functions import RewardsBySet
from mars.rewards.local import LocalScorer
from mars.rewards.pool import RewardPool
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import RewardInput, RewardResult
from tests.fakes.engine import RecordingEngine
from tests.fakes.run import parts_of_run
from tests.fakes.trainer import RecordingTrainer

BOXES = "[[1, 2, 20, 30], [30, 10, 40, 40]]"
BY_SET = "reward.functions={scenes: grounding, questions: vqa}"


def row(data_source, images, text, truth):
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": "<image>" * len(images) + text}],
        "images": [image.path.rsplit("/", 1)[1] for image in images],
        "reward_model": {"ground_truth": truth},
        "extra_info": {},
    }


@pytest.fixture
def files(tmp_path, pictures):
    """Scenes with boxes; questions about two images, and about none."""
    rows = {
        "scenes": [row("scenes", pictures[i % 2 : i % 2 + 2], "Find them.", BOXES) for i in range(3)],
        "questions": [
            row("questions", pictures[:2], "Is it day?", "yes"),
            row("questions", [], "What is 1 + 2?", "three or 3"),
            row("questions", [], "Name a colour.", "red"),
        ],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    return [str(tmp_path / f"{name}.jsonl") for name in rows]


@pytest.fixture
def configure(files, tiny, pictures, tmp_path):
    def make(*overrides):
        listed = ",".join(f"'{file}'" for file in files)
        given = [
            "cluster.device=cpu", f"model.path='{tiny}'", f"data.train_files=[{listed}]", "data.weights=[1,1]",
            f"data.image_root='{pictures[0].path.rsplit('/', 1)[0]}'", "data.prompts_per_step=6",
            "actor.prompts_per_update=3", "actor.num_workers=2", "data.max_prompt_tokens=300", "run.num_steps=1",
            "data.min_image_pixels=784", "data.max_image_pixels=50176", "rollout.samples_per_prompt=4",
            "rollout.max_response_tokens=200", "rollout.max_model_len=500", "actor.tokens_per_forward=2000",
            "reward.num_workers=1",
        ]  # fmt: skip
        return load_config("train", [*given, *overrides], [])

    return make


@pytest.fixture
def take_turns():
    """inputs -> an engine that answers rightly and with nothing in turn, in the model's frame of each view."""

    def make(inputs):
        rewards, prompts = rewards_of(inputs.config), inputs.train or inputs.evaluation
        prompts = {prompt.prompt_id: prompt for prompt in prompts.prompts}

        def script(request, k):
            prompt = prompts[request.prompt_id]
            right = answered_perfectly(prompt, request.view, rewards.of(prompt.data_source), inputs.frames).response
            return inputs.encoder.encode_response("<think></think>" if k % 2 else right)

        return RecordingEngine(script, inputs.encoder.token_rules().eos_ids)

    return make


def test_a_step_over_boxes_words_and_rows_without_images(configure, take_turns):
    config = configure(BY_SET)
    inputs = load_inputs(config, with_training_set=True)
    stream = prompt_stream(config, inputs.train.prompts, None)
    engine, scorer = take_turns(inputs), LocalScorer(rewards_of(config), "strict")
    parts = parts_of_run(config, inputs, engine, None, scorer)
    parts = replace(parts, trainer=RecordingTrainer())
    result = train_step(parts, stream, SamplingState(0, ()), 1)

    assert sorted(item.prompt.data_source for item in result.rollouts) == ["questions"] * 3 + ["scenes"] * 3
    assert [r for item in result.rollouts for r in item.multi.rollouts if not r.valid] == []
    full = {"scenes": 1.75, "questions": 1.5}
    trained = {p.prompt_id: p for p in parts.trainer.batches[0].prompts}
    advantages = {}
    for prompt_id, target in parts.trainer.targets[0]:
        advantages.setdefault(prompt_id, []).append(target.response.advantage)
    for item in result.rollouts:
        best, prompt = full[item.prompt.data_source], trained[item.prompt.prompt_id]
        assert ("json" in item.prompt.messages[0].text) == (item.prompt.data_source == "scenes")
        multi, anchors = [best, 0.0] * 2, [best] * len(item.prompt.sources)
        pool = multi + anchors
        wanted = [(score - np.mean(pool)) / (np.std(pool, ddof=1) + 1e-6) for score in multi]
        assert [response.advantage for response in prompt.responses] == pytest.approx(wanted, rel=1e-4)
        found = [a for a in advantages[prompt.prompt_id] if a != 0]  # fillers weigh nothing
        assert sorted(found) == pytest.approx(sorted(wanted), rel=1e-4)
    assert result.metrics["critic/score/mean"] == pytest.approx((1.75 + 1.5) / 4)
    assert result.metrics["reward/accuracy/mean"] == pytest.approx(0.5)
    assert result.metrics["reward/extra_boxes/mean"] == 0, "of the rows with boxes alone"
    assert {len(request.images) for request in engine.requests} == {0, 1, 2}


def test_an_evaluation_tells_the_sets_apart(configure, files, take_turns):
    listed = ",".join(f"'{file}'" for file in files)
    config = configure(BY_SET, f"data.eval_files=[{listed}]", "evaluation.samples_per_prompt=2")
    inputs = load_inputs(config, with_training_set=False)
    scorer = LocalScorer(rewards_of(config), "strict")
    parts = evaluation_parts(config, inputs, take_turns(inputs), scorer)
    result = evaluate(parts, inputs.evaluation.prompts, name="e", step=0, model="m").result
    scenes, questions = result["by_data_source"]["scenes"], result["by_data_source"]["questions"]
    assert (scenes["metric"], questions["metric"]) == ("mean IoU", "accuracy")
    assert (scenes["multi"]["mean"], questions["multi"]["mean"]) == (pytest.approx(0.5), 0.5)
    assert scenes["share_over_threshold"]["mean"] == 0.5
    assert questions["share_over_threshold"] is None
    assert scenes["compat"]["multi"]["mean"] == pytest.approx((1 + 0.3 * np.log(2)) / 2)
    assert (result["n"], result["failed"], result["unparseable"]) == (6, 0, result["answers"] // 2)


def test_a_dry_run_and_a_check_follow_each_rows_reward(configure, files, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = configure(BY_SET)
    report(config)
    text = capsys.readouterr().out
    assert "perfect answer: score 1.75, accuracy 1\n" in text
    assert "perfect answer: score 1.5, accuracy 1\n" in text
    result = check(config, files, [])
    assert result.problems == []
    lines = check_lines(result, config)
    assert "reward         scenes: grounding, questions: vqa" in lines
    assert "template       grounding for 3 rows, vqa for 3 rows" in lines
    # The other way round nothing fits: words are no boxes.
    swapped = configure("reward.functions={scenes: vqa, questions: grounding}")
    refused = {problem.row.rpartition("/")[2] for problem in check(swapped, files, []).problems}
    assert {f"questions.jsonl:{i}" for i in range(3)} <= refused
    with pytest.raises(DataError, match=r"questions\.jsonl:2 +truth"):
        load_inputs(swapped, with_training_set=True)


def test_a_template_of_ones_own_holds_for_all_sets_and_a_function_of_ones_own_has_none(configure, tmp_path):
    (tmp_path / "own.jinja").write_text("{{ question }} <think> <answer> json")
    config = configure(BY_SET, f"data.template='{tmp_path / 'own.jinja'}'")
    prompts = load_inputs(config, with_training_set=True).train.prompts
    assert all(prompt.messages[0].text.endswith("<think> <answer> json") for prompt in prompts)
    (tmp_path / "own.py").write_text("def score(item):\n    return 1.0\n")
    config = configure(f"reward.functions={{scenes: grounding, questions: '{tmp_path / 'own.py'}:score'}}")
    texts = {p.data_source: p.messages[0].text for p in load_inputs(config, with_training_set=True).train.prompts}
    assert "json" in texts["scenes"]
    assert "<think>" not in texts["questions"]


@pytest.mark.parametrize("drop", [[], ["data.on_bad_sample=drop"]])
def test_a_set_without_a_reward_is_refused(configure, files, drop, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    message = r"reward\.functions: no reward for 'questions', 'scenes'; got \{'scene': 'grounding'\}; name one for"
    config = configure("reward.functions={scene: grounding}", *drop)
    with pytest.raises(ConfigError, match=message):
        load_inputs(config, with_training_set=True)
    with pytest.raises(ConfigError, match=message):
        check(config, files, [])
    # One more than there are rows of is no mistake: an evaluation may be of one set of a run.
    load_inputs(configure("reward.functions={scenes: grounding, questions: vqa, later: vqa}"), with_training_set=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward.functions={scenes: groundin, questions: vqa}"], r"functions: no such reward for scenes; .*groundin"),
        (["reward.functions={scenes: grounding, questions: nowhere.py:f}"], r"reward\.functions: no such file"),
        (["reward.functions={scenes: 3}"], r"reward\.functions: wrong type"),
        (["reward.functions={scenes: ''}"], r"reward\.functions: no such reward for scenes; got .*''"),
        (["reward.functions=vqa"], r"reward\.functions: wrong type"),
        (["reward.scorer=compat", "reward.functions={scenes: grounding, questions: a.py:f}"], r"reward\.scorer: only"),
    ],
)  # fmt: skip
def test_rewards_that_are_none(configure, files, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_inputs(configure(*overrides), with_training_set=True)


def test_a_function_that_is_not_used_need_not_have_two_scorers(configure):
    config = configure("reward.function=own.py:f", "reward.scorer=compat", BY_SET)
    assert rewards_of(config).names == ("grounding", "vqa")
    load_inputs(config, with_training_set=True)


def test_the_rewards_reach_the_worker_processes(tmp_path):
    (tmp_path / "own.py").write_text("def f(item): return 7.0\ndef g(item): return {'score': 8.0, 'p': 1}\n")
    own = tmp_path / "own.py"
    rewards = RewardsBySet("unused.py:f", {"a": f"{own}:f", "b": "vqa", "c": f"{own}:g"})
    items = [RewardInput(name, None, "<answer>yes</answer>", "yes", None, None, {}) for name in "abcba"]
    pool = RewardPool(rewards, "strict", 1, 30.0)
    try:
        assert [result.score for result in pool.score(items)] == [7.0, 1.25, 8.0, 1.25, 7.0]
    finally:
        pool.close()


EMPTY = "<answer></answer>"


class Half:
    """Fails on one set."""

    def __init__(self):
        self.asked = []

    def score(self, items):
        self.asked.append([item.data_source for item in items])
        return [
            failed_result("no") if i.data_source == "questions" else RewardResult(float(EMPTY not in i.response), 1, {})
            for i in items
        ]


def test_every_reward_is_tried_before_the_run(configure):
    inputs = load_inputs(configure(BY_SET), with_training_set=True)
    scorer = Half()
    with pytest.raises(ConfigError, match=r"failed on each of the 3 items of its self-test.* --data-source questions"):
        try_rewards(scorer, inputs, inputs.train.prompts)
    assert scorer.asked == [["scenes"] * 6, ["questions"] * 6]
    inputs = load_inputs(configure(BY_SET, "algorithm.part_weights={accuracy: 1.0}"), with_training_set=True)
    with pytest.raises(ConfigError, match=r"the reward of data_source 'scenes' has no part accuracy; got none"):
        try_rewards(Half(), inputs, inputs.train.prompts)
