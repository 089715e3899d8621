"""Rows on disk to checked inputs and the arithmetic that `--dry-run` prints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mars.checks.dry_run import report, summary
from mars.config.load import load_config
from mars.data.prompts.views import render_view
from mars.errors import ConfigError, DataError, SetupError
from mars.inputs import evaluation_plan, load_inputs, prompt_stream
from mars.rollout.scripted import ScriptedEngine
from mars.run import _questions
from mars.types import Message
from tests.fakes.run import parts_of_run
from tests.integration.whole_model_check import check_model


def row(images, truth="[[1, 2, 20, 30]]", question="Find the person.", **extra):
    return {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "<image>\n" * len(images) + question}],
        "images": [image.path.rsplit("/", 1)[-1] for image in images],
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": extra,
    }


@pytest.fixture
def configure(tiny, pictures, tmp_path):
    """rows -> configuration of a small run over them."""

    def make(rows, *overrides, held_out=()):
        files = {}
        for name, some in (("train", rows), ("test", held_out)):
            files[name] = tmp_path / f"{name}.jsonl"
            files[name].write_text("".join(json.dumps(one) + "\n" for one in some))
        given = [
            "cluster=local", "cluster.device=cpu", "reward.num_workers=1", f"model.path={tiny}",
            f"run.dir={tmp_path / 'run'}",
            f"data.train_files=[{files['train']}]", f"data.image_root={pictures[0].path.rsplit('/', 1)[0]}",
            "data.prompts_per_step=2", "actor.prompts_per_update=1", "data.max_prompt_tokens=200",
            "data.min_image_pixels=784", "data.max_image_pixels=50176", "rollout.samples_per_prompt=3",
            "rollout.max_response_tokens=50", "rollout.max_model_len=400", "actor.tokens_per_forward=500",
            *([f"data.eval_files=[{files['test']}]"] if held_out else []),
        ]  # fmt: skip
        return load_config("train", [*given, *overrides], [])

    return make


def test_prompts_lengths_and_views_are_those_of_the_model(configure, pictures, world):
    inputs = load_inputs(configure([row(pictures[:2]), row(pictures[:3])]), with_training_set=True)
    assert (len(inputs.train.prompts), inputs.evaluation, inputs.max_images) == (2, None, 3)
    prompt = inputs.train.prompts[0]
    for view, shown in [(None, pictures[:2]), (("view_2",), pictures[1:2])]:
        ids, images = inputs.encode(prompt, view)
        assert [image.size for image in images] == [image.size for image in shown]
        assert ids.count(world.rules.image_id) == len(shown)
    # A request's length is what the processor lays out.
    from mars.rollout.plan import RolloutPlan
    from mars.types import Sampling

    sampling = Sampling(1.0, 1.0, 0, 5)
    plan = RolloutPlan(1, 1, sampling, sampling, lambda p: [("view_1",), ("view_2",)], inputs.encode, 0)
    for request in plan.requests([prompt], 1):
        processed = world.processor.process(request.prompt_token_ids, request.images)
        assert inputs.prompt_length(request) == len(processed.input_ids)


def test_the_repeated_layout_reaches_the_prompts(configure, pictures, world):
    inputs = load_inputs(configure([row(pictures[:2])] * 2, "anchor.image_layout=repeated"), with_training_set=True)
    ids, images = inputs.encode(inputs.train.prompts[0], ("view_2",))
    assert [image.size for image in images] == [pictures[1].size] * 2
    assert ids.count(world.rules.image_id) == 2


OWN_WORDS = (
    "{% if sources | length > 1 %}{{ sources | length }} images of one scene: {{ sources | join(', ') }}."
    "{% else %}Only {{ sources[0] }}.{{ ' word' * 20 }}{% endif %}{{ '\\n' }}{{ question }}"
)


def test_views_in_a_wording_of_their_own(configure, pictures, world, tmp_path):
    """Template and question are those of the shown sources, in training and evaluation alike; multi never changes."""
    (tmp_path / "own.jinja").write_text(OWN_WORDS)
    lines = row(pictures[:3], sources=["a", "b", "c"])
    lines["prompt"][0]["content"] = "A: <image>\nB: <image>\nC: <image>\nWho?"

    def load(*overrides):
        settings = (f"data.template={tmp_path / 'own.jinja'}", "anchor=all_but_one", *overrides)
        return load_inputs(configure([lines, row(pictures[:1])], *settings, held_out=[lines]), with_training_set=True)

    same, own = load(), load("anchor.wording=per_view")
    words = {
        None: "3 images of one scene: a, b, c.\nA: <image>\nB: <image>\nC: <image>\nWho?",
        ("a",): f"Only a.{' word' * 20}\nA: <image>\nWho?",
        ("b",): f"Only b.{' word' * 20}\nB: <image>\nWho?",
        ("c",): f"Only c.{' word' * 20}\nC: <image>\nWho?",
        ("b", "c"): "2 images of one scene: b, c.\nB: <image>\nC: <image>\nWho?",
        ("a", "c"): "2 images of one scene: a, c.\nA: <image>\nC: <image>\nWho?",
        ("a", "b"): "2 images of one scene: a, b.\nA: <image>\nB: <image>\nWho?",
    }
    training = parts_of_run(own.config, own, ScriptedEngine(None, []), None, None).plan
    prompt, held_out = own.train.prompts[0], own.evaluation.prompts[0]
    asked = [*training.requests([prompt], 1), *evaluation_plan(own).requests([held_out], 0)]
    assert [request.view for request in asked] == [
        None,
        ("b", "c"),
        ("a", "c"),
        ("a", "b"),
        None,
        ("a",),
        ("b",),
        ("c",),
    ]
    for request in asked:
        shown = 3 if request.view is None else len(request.view)
        assert request.prompt_token_ids == world.encoder.encode([Message("user", words[request.view])], shown)
        assert len(request.images) == shown
    in_training, in_evaluation = asked[:4], asked[4:]
    assert own.train.lengths[prompt.row] == max(map(own.prompt_length, in_training))
    assert own.evaluation.lengths[held_out.row] == max(map(own.prompt_length, in_evaluation))
    for inputs in (same, own):
        assert inputs.train.prompts[0].messages == (Message("user", words[None]),)
    assert own.train.prompts[1].view_messages == {}, "a prompt of one image has its multi view alone"
    # The default cuts the text of all images.
    cut = render_view(same.train.prompts[0], ("c",), "single")[0][-1].text
    assert cut == "3 images of one scene: a, b, c.\nA:\nB:\nC: <image>\nWho?"


def test_a_wording_of_ones_own_needs_one_slot_for_each_image(configure, pictures):
    with pytest.raises(ConfigError, match=r"anchor\.wording: .*image_layout=repeated .*; got 'per_view'; give same"):
        configure([row(pictures[:2])], "anchor.wording=per_view", "anchor.image_layout=repeated")


def test_a_source_may_have_a_budget_of_its_own(configure, pictures, world, capsys):
    """Lengths, frames, the dry run and the identity of results follow it; another source keeps the limits of all."""
    own = "data.source_image_pixels={infrared: [784, 1568], depth: [25088, 50176]}"
    names = ["visible", "infrared", "depth"]
    rows = [row(pictures[:3], sources=names), row(pictures[:2], sources=names[:2]), row(pictures[2:3], sources=["x"])]
    config = configure(rows, own, held_out=rows[:1])
    inputs = load_inputs(config, with_training_set=True)
    for prompt in (*inputs.train.prompts[:2], *inputs.evaluation.prompts):
        for request in evaluation_plan(inputs).requests([prompt], 0):
            processed = world.processor.process(request.prompt_token_ids, request.images)
            assert inputs.prompt_length(request) == len(processed.input_ids)
            _, h, w = processed.image_grid_thw[0]
            assert inputs.frames(prompt, request.view)[1] == (14 * w, 14 * h)
    full = load_inputs(configure(rows, held_out=rows[:1]), True).train.prompts[0].sources
    images = [source.image for source in inputs.train.prompts[0].sources]
    assert images[0] == full[0].image
    assert [image.resized for image in images] == [None, (28, 28), (252, 112)]
    capsys.readouterr()
    report(config)
    text = capsys.readouterr().out
    assert text.count("perfect answer: score 1.75, accuracy 1\n") == 3
    assert "64x48: 4 + 56x56: 1 + 96x40: 36" in text
    identity = "data.source_image_pixels"
    assert _questions(config, inputs, {}).identity[identity] == config.data.source_image_pixels
    assert _questions(configure(rows, held_out=rows[:1]), inputs, {}).identity[identity] is None


def test_a_budget_decides_which_rows_are_too_long(configure, pictures, world):
    rows = [row(pictures[:2], sources=["visible", "infrared"])] * 2
    wide = ["data.min_image_pixels=25088", "data.source_image_pixels={visible: [25088, 25088]}"]
    longest = len(world.prompt_ids("x", pictures[:2])) + 32
    for overrides in (wide, [wide[0], "data.source_image_pixels={infrared: [50176, 50176]}"]):
        prompts = load_inputs(configure(rows, *overrides), with_training_set=True).train.prompts
        assert prompts
    with pytest.raises(DataError, match=r"train\.jsonl:1.*data\.max_prompt_tokens"):
        load_inputs(configure(rows, *overrides, f"data.max_prompt_tokens={longest}"), with_training_set=True)


def test_a_source_with_a_budget_must_be_in_some_row(configure, pictures):
    rows = [row(pictures[:2], sources=["visible", "infrared"])] * 2
    held_out = [row(pictures[:2], sources=["visible", "thermal"])]
    load_inputs(configure(rows, "data.source_image_pixels={thermal: [784, 1568]}", held_out=held_out), True)
    misspelt = "data.source_image_pixels={infared: [784, 1568]}"
    with pytest.raises(ConfigError, match="got infared; the rows' sources are visible, infrared, thermal"):
        load_inputs(configure(rows, misspelt, held_out=held_out), True)


def test_truth_boxes_are_checked_in_their_own_frame(configure, pictures):
    """In thousandths 900 lies inside a picture of 64 x 48; 1200 lies outside, however large the picture."""
    inside = row(pictures[:2], "[[100, 100, 900, 800]]", box_space="norm_1000")
    inputs = load_inputs(configure([inside] * 2), with_training_set=True)
    assert inputs.frames(inputs.train.prompts[0], None)[0] == (1000, 1000)
    with pytest.raises(DataError, match="outside"):
        load_inputs(configure([row(pictures[:2], "[[100, 100, 900, 800]]")]), with_training_set=True)
    with pytest.raises(DataError, match="outside"):
        load_inputs(configure([{**inside, "reward_model": {"ground_truth": "[[0, 0, 9, 1200]]"}}]), True)


def test_all_bad_rows_are_named_at_once_or_dropped_and_counted(configure, pictures):
    good, long = row(pictures[:2]), row(pictures[:2], question="word " * 300)
    rows = [good, row(pictures[:1], "[[5, 5, 1, 1]]"), good, {**good, "images": ["gone.png", "0.png"]}, long]
    with pytest.raises(DataError) as raised:
        load_inputs(configure([*rows[:4], good]), with_training_set=True)
    assert "train.jsonl:1" in str(raised.value)
    assert "train.jsonl:3" in str(raised.value)
    with pytest.raises(DataError, match=r"train\.jsonl:1.*data\.max_prompt_tokens"):
        load_inputs(configure([good, long]), with_training_set=True)
    kept = load_inputs(configure(rows, "data.on_bad_sample=drop"), with_training_set=True).train
    assert [prompt.row.rsplit(":", 1)[1] for prompt in kept.prompts] == ["0", "2"]
    assert kept.dropped == {"truth": 1, "image_missing": 1, "overlong": 1}


def test_rows_may_be_held_to_one_number_of_images(configure, pictures):
    rows = [row(pictures[:2]), row(pictures[:3]), row(pictures[:2]), row(pictures[:1])]
    assert len(load_inputs(configure(rows), with_training_set=True).train.prompts) == 4
    with pytest.raises(DataError, match=r"3 images; data\.images_per_row is 2") as raised:
        load_inputs(configure(rows, "data.images_per_row=2"), with_training_set=True)
    assert "train.jsonl:1" in str(raised.value)
    assert "train.jsonl:3" in str(raised.value)
    kept = load_inputs(configure(rows, "data.images_per_row=2", "data.on_bad_sample=drop"), True).train
    assert [prompt.row.rsplit(":", 1)[1] for prompt in kept.prompts] == ["0", "2"]
    assert kept.dropped == {"num_images": 2}
    with pytest.raises(DataError, match=r"test\.jsonl:0.*num_images"):
        load_inputs(configure(rows[::2], "data.images_per_row=2", held_out=[row(pictures[:3])]), True)


def test_anchors_need_a_row_with_two_sources(configure, pictures):
    rows = [row(pictures[:1]), row(pictures[:1])]
    with pytest.raises(ConfigError, match=r"anchor\.kind.*anchor=none"):
        load_inputs(configure(rows), with_training_set=True)
    load_inputs(configure(rows, "anchor=none"), with_training_set=True)
    load_inputs(configure([*rows, row(pictures[:2])]), with_training_set=True)


def test_files_are_mixed_in_the_shares_of_their_weights(configure, pictures, tmp_path):
    """Rows of two images, of three and of none, from two files."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("".join(json.dumps(row(pictures[: 2 + i % 2], id=i)) + "\n" for i in range(8)))
    two.write_text("".join(json.dumps(row([], question=f"Only words {i}?", id=-i - 1)) + "\n" for i in range(5)))
    files = f"data.train_files=['{one}','{two}']"
    config = configure([], files, "data.weights=[3,1]", "data.prompts_per_step=4", "actor.prompts_per_update=4")
    inputs = load_inputs(config, with_training_set=True)
    stream = prompt_stream(config, inputs.train.prompts, None)
    for step in range(6):
        kinds = sorted(len(prompt.sources) for prompt in stream.batch(step))
        assert kinds[0] == 0
        assert min(kinds[1:]) >= 2
    ramp = "{key: data.weights.0, first: 3, last: 1, start: 1, steps: 2, shape: linear, slope: null}"
    config = configure(
        [], files, "data.weights=[1,1]", f"ramps=[{ramp}]", "data.prompts_per_step=4", "actor.prompts_per_update=4"
    )
    stream = prompt_stream(config, inputs.train.prompts, None)
    # The share of the words is 1/4, then 1/3, then 1/2: of 4 places 1, 4/3 and 2, which is 13/3 in three steps.
    words = [sum(not prompt.sources for prompt in stream.batch(step)) for step in range(4)]
    assert (words[0], sum(words[:3]), words[3]) in [(1, 4, 2), (1, 5, 2)]
    together = configure([], files, "data.prompts_per_step=13", "actor.prompts_per_update=13")
    assert len({p.row for p in prompt_stream(together, inputs.train.prompts, None).batch(0)}) == 13
    with pytest.raises(ConfigError, match=r"data\.weights: 1 weights for the 2 data\.train_files"):
        configure([], files, "data.weights=[3]")
    with pytest.raises(ConfigError, match=r"data\.weights"):
        configure([], files, "data.weights=[3,0]")
    large = configure([], files, "data.weights=[1,9]", "data.prompts_per_step=8", "actor.prompts_per_update=8")
    with pytest.raises(ConfigError, match=r"data\.weights.*5 prompts"):
        prompt_stream(large, inputs.train.prompts, None)


def test_the_held_out_set_can_be_cut_and_used_alone(configure, pictures):
    rows = [row(pictures[:2])]
    config = configure(rows * 2, "evaluation.max_samples=3", held_out=[row(pictures)] * 5)
    both = load_inputs(config, with_training_set=True)
    assert (len(both.evaluation.prompts), both.max_images) == (3, 4)
    alone = load_inputs(config, with_training_set=False)
    assert alone.train is None
    assert alone.evaluation.prompts == both.evaluation.prompts
    with pytest.raises(ConfigError, match=r"data\.eval_files"):
        load_inputs(configure(rows), with_training_set=False)


def test_dry_run_prints_the_batch_arithmetic(configure, pictures, capsys):
    rows = [row(pictures[:2]), row(pictures[:3]), row(pictures[:1]), row(pictures[:2])]
    config = configure(
        rows, "run.num_epochs=3", "anchor.samples_per_view=2", "data.prompts_per_step=2", held_out=rows[:1]
    )
    report(config)
    text = capsys.readouterr().out
    inputs = load_inputs(config, with_training_set=True)
    assert text.startswith("\n".join(summary(config, inputs)) + "\n")
    assert text.endswith("dry run: settings, data and model files are in order\n")
    lines = {line[:18].strip(): line[18:] for line in text.splitlines()[:-1]}
    assert lines["training set"] == "4 prompts, 0 dropped"
    assert lines["held-out set"] == "1 prompts, 0 dropped"
    evaluation = replace(inputs.evaluation, dropped={"image_undecodable": 2})
    assert summary(config, replace(inputs, evaluation=evaluation))[1].endswith(
        "1 prompts, 2 dropped {'image_undecodable': 2}"
    )
    assert lines["sources"] == "1 rows with 1, 2 rows with 2, 1 rows with 3"
    assert lines["steps"] == "6 = 3.00 epochs"
    # 2, 3, 0 and 2 anchor views of two samples each: 3.5 on average.
    assert lines["a prompt"] == "3 multi + 3.5 anchor rollouts"
    assert lines["a step"] == "2 prompts, 13 rollouts, 6 of them trained on"
    assert lines["updates per step"] == "2 of 1 prompts over 1 rank(s)"
    changed = configure(
        rows, "anchor.samples_per_view=2", "data.prompts_per_step=2", "anchor.guide=above_mean",
        "anchor.allocation=unsolved",
    )  # fmt: skip
    guided = summary(changed, inputs)
    assert any(line.endswith("3 (2 to 12, by anchor.allocation) multi + 3.5 anchor rollouts") for line in guided)
    assert any(line.endswith("2 prompts, 13 rollouts, 6 to 13 of them trained on") for line in guided)
    longest = int(lines["prompt tokens"].split("longest ")[1].split()[0])
    assert lines["a forward"] == f"{500 // (longest + 50)} or more rows of up to {longest + 50} tokens"


def test_dry_run_decodes_every_image_and_looks_at_the_model_files(configure, pictures, tmp_path, tiny):
    config = configure([row(pictures[:2])] * 2, "reward.function=grounding")
    report(config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=r"model\.path.*safetensors"):
        check_model(str(tmp_path / "empty"))
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"")
    with pytest.raises(SetupError, match=r"model\.path"):
        check_model(str(tmp_path / "empty"))
    check_model(str(tiny))
    with pytest.raises(ConfigError, match=r"reward\.function"):
        report(configure([row(pictures[:2])] * 2, "reward.function=nowhere.py:score"))
    with pytest.raises(ConfigError, match=r"data\.prompts_per_step"):
        report(configure([row(pictures[:2])]))


def test_dry_run_looks_at_the_reference_of_a_kl_term(configure, pictures, tmp_path):
    rows = [row(pictures[:2])] * 2
    missing = f"algorithm.kl_reference={tmp_path / 'nowhere'}"
    with pytest.raises(SetupError, match=r"algorithm\.kl_reference: .*nowhere"):
        report(configure(rows, missing))
    report(configure(rows, missing, "algorithm.kl_coefficient=0.0"))  # none is loaded then
