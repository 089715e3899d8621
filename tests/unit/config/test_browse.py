"""`mars config`: what settings mean, where their values come from, and in what configurations differ."""

from __future__ import annotations

import json

import pytest
import yaml

from mars.config.browse import NOT_SET, described, differences, named, recorded, search, settings, undescribed
from mars.config.keys import leaves
from mars.config.load import composed_yaml, load_config
from mars.config.schema import SftConfig, TrainConfig
from mars.errors import ConfigError

MINE = """\
# @package _global_
defaults:
  - quickstart
  - override /anchor: none
  - _self_
rollout:
  top_p: 0.8
recipe:
  settings:
    mine:
      bonus: 0.2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of configuration files with the experiment `mine`."""
    path = tmp_path_factory.mktemp("configs")
    (path / "experiment").mkdir()
    (path / "experiment" / "mine.yaml").write_text(MINE)
    return path


def test_the_source_is_the_last_file_or_override_that_sets_a_key(folder):
    words = ["mine", "rollout.top_k=5", "recipe.settings.mine.bonus=0.3", "reward.functions={a: vqa}"]
    found = named(words, [str(folder)], "train")
    mine = f"{folder}/experiment/mine.yaml"
    assert {key: (found.values[key], found.sources.get(key)) for key in (
        "rollout.top_k", "rollout.top_p", "rollout.temperature", "anchor.kind", "run.num_steps", "run.seed",
        "recipe.settings", "reward.functions", "data.eval_files", "cluster.kind", "rollout.max_staleness",
    )} == {
        "rollout.top_k": (5, "the override rollout.top_k=5"),
        "rollout.top_p": (0.8, mine),
        "rollout.temperature": (1.0, "configs/rollout/vllm.yaml"),
        "anchor.kind": ("none", "configs/anchor/none.yaml"),
        "run.num_steps": (60, "configs/experiment/quickstart.yaml"),
        "run.seed": (0, "configs/train.yaml"),
        "recipe.settings": ({"mine": {"bonus": 0.3}}, "the override recipe.settings.mine.bonus=0.3"),
        "reward.functions": ({"a": "vqa"}, "the override reward.functions={a: vqa}"),
        "data.eval_files": (["runs/quickstart/data/test.parquet"], "configs/experiment/quickstart.yaml"),
        "cluster.kind": ("ray", "configs/cluster/ray.yaml"),
        "rollout.max_staleness": (0, "configs/schedule/synchronous.yaml"),
    }  # fmt: skip


@pytest.mark.parametrize("words", [[], ["quickstart"], ["algorithm=dapo", "anchor=none", "rollout=hf"]])
def test_every_key_with_a_value_has_a_source(words):
    found = named(words, [], "train")
    assert {key for key, value in found.values.items() if value != NOT_SET} - found.sources.keys() == set()
    assert found.values.keys() == leaves(TrainConfig).keys()


def test_an_override_of_a_section_sets_the_keys_in_it():
    found = named(["rollout={top_p: 0.5, top_k: 3}", "rollout.top_k=4"], [], "train")
    assert found.sources["rollout.top_p"] == "the override rollout={top_p: 0.5, top_k: 3}"
    assert found.sources["rollout.top_k"] == "the override rollout.top_k=4"
    assert found.sources["rollout.temperature"] == "configs/rollout/vllm.yaml"


def test_what_is_shown_is_what_a_run_would_have():
    for root, overrides in (("train", ["experiment=quickstart"]), ("sft", ["experiment=quickstart_sft"])):
        chosen = named(overrides, [], root)
        expected = yaml.safe_load(composed_yaml(root, overrides, []))
        assert yaml.safe_load(undescribed(chosen)) == yaml.safe_load(described(chosen)) == expected


def test_every_setting_is_described_above_its_value():
    text = described(named([], [], "train"))
    lines = text.splitlines()
    assert max(map(len, (line for line in lines if line.lstrip().startswith("#")))) <= 80
    place = lines.index("  top_p: 0.9")
    assert lines[place - 2 : place] == [
        "  # Nucleus sampling: smallest set of tokens with this probability; 1: all.",
        "  # (number > 0 and <= 1)",
    ]
    assert f"  train_files: {NOT_SET}" in lines
    for one in settings(named([], [], "train")):
        assert one.meaning, one.key


def test_a_run_directory_is_read_and_may_be_changed(tmp_path):
    config = load_config("train", ["experiment=quickstart", "run.seed=7"], [])
    content = config.model_dump()
    del content["checkpoint"]["grace_s"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    run = named([str(tmp_path), "run.num_steps=61"], [], "sft")
    assert run.root == "train"
    assert run.sources["run.seed"] == f"{tmp_path}/config.yaml"
    assert run.sources["run.num_steps"] == "the override run.num_steps=61"
    assert run.sources["checkpoint.grace_s"] == "the default, because the run has no value"
    assert differences(named(["quickstart"], [], "train"), run) == {
        "run.seed": {"a": 0, "b": 7},
        "run.num_steps": {"a": 60, "b": 61},
    }


@pytest.mark.parametrize(
    ("root", "changes"),
    [
        ("train", ["recipe.transforms={masked: mask.py:masked}", "reward.functions={a: vqa, b: grounding}"]),
        ("train", ["recipe.settings={mine: {bonus: 0.2}}"]),
        ("sft", ["data.source_image_pixels={infrared: [3136, 250880]}"]),
    ],
)
def test_a_record_has_the_keys_and_values_of_the_configuration(root, changes):
    files = ["data.train_files=[a.parquet]", *changes]
    content = yaml.safe_load(composed_yaml(root, files, []))
    assert recorded(content) == named(files, [], root).values
    assert recorded({**content, "gone": {"long": {}}})["gone.long"] == {}


def test_an_experiment_of_a_recipe_of_mars_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = named(["vade_tiny"], ["recipe/vade"], "train")
    assert found.values["recipe.sampler"] == "recipe/vade/functions.py:Vade"
    assert found.sources["recipe.sampler"].endswith("recipe/vade/experiment/vade_tiny.yaml")


def test_two_kinds_of_jobs_are_not_compared():
    with pytest.raises(ConfigError, match=r"^A, B: one is a training and one a cold start; got the defaults and the d"):
        differences(named([], [], "train"), named([], [], "sft"))


def test_a_name_finds_one_setting_and_words_find_all_that_have_them():
    chosen = named([], [], "train")
    assert [one.key for one in search("rollout.top_p", chosen)] == ["rollout.top_p"]
    keys = [one.key for one in search("Top_P", chosen)]
    assert keys == ["rollout.top_p", "evaluation.top_p"]
    found = search("nucleus sampling", chosen)
    assert {one.key for one in found} == {"rollout.top_p", "evaluation.top_p"}
    keys = [one.key for one in search("seed", chosen)]
    assert keys[0] == "run.seed", "a name comes before a description"


def test_defaults_are_shown_as_they_are_written():
    by_key = {one.key: one for one in settings(named(["quickstart", "run.name=x"], [], "train"))}
    assert (by_key["run.dir"].default, by_key["run.dir"].value) == ("runs/${run.name}", "runs/quickstart/run")
    assert (by_key["data.train_files"].default, by_key["data.weights"].default) == (None, "null")
    assert by_key["data.train_files"].value == "[runs/quickstart/data/train.parquet]"


@pytest.mark.parametrize(
    ("text", "do"),
    [
        ("clip_norm", "use actor.max_grad_norm"),
        ("actor_rollout_ref.rollout.n", "use rollout.samples_per_prompt"),
        ("rolout.topp", "did you mean rollout.top_p"),
        ("of no setting at all", "docs/config.md lists all keys"),
        ("", "docs/config.md lists all keys"),
    ],
)
def test_what_is_not_found_is_refused_with_a_suggestion(text, do):
    with pytest.raises(ConfigError, match=r"^TEXT: no setting has this in its name or description; got '") as refusal:
        search(text, named([], [], "train"))
    assert do in str(refusal.value)


def test_what_is_neither_an_experiment_nor_a_run_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^CONFIG: neither an experiment nor a run directory; got 'quickstrat'; give"
    ):
        named(["quickstrat"], [], "train")
    with pytest.raises(ConfigError, match=r"^rolout.top_p: unknown key"):
        named(["quickstart", "rolout.top_p=1"], [], "train")


def test_the_commands_print_what_was_found(mars, folder):
    result = mars("config", "find", "rollout.top_p", "mine", "--config-dir", str(folder))
    assert result.stdout.splitlines() == [
        "rollout.top_p",
        "  meaning  Nucleus sampling: smallest set of tokens with this probability; 1: all.",
        "  takes    number > 0 and <= 1",
        "  default  0.9",
        "  value    0.8",
        f"  from     {folder}/experiment/mine.yaml",
    ]
    result = mars("config", "find", "data.train_files", "--json")
    (found,) = json.loads(result.stdout)
    assert (found["key"], found["default"], found["value"], found["source"]) == ("data.train_files", None, None, None)
    result = mars("config", "diff", "quickstart rollout.top_k=4", "experiment=quickstart")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["A", "experiment=quickstart", "rollout.top_k=4"], ["B", "experiment=quickstart"], [],
        ["A", "B"], ["rollout.top_k", "4", "0"],
    ]  # fmt: skip
    result = mars("config", "diff", "quickstart", "quickstart")
    assert result.stdout.splitlines()[-1] == "the same"
    result = mars("config", "diff", "anchor=none", "--json")
    assert json.loads(result.stdout)["anchor.kind"] == {"a": "none", "b": "mono"}
    assert yaml.safe_load(mars("config", "show", "--sft").stdout).keys() == SftConfig.model_fields.keys()
    result = mars("config", "diff", "quickstart 'a")
    assert (result.returncode, result.stderr) == (
        2,
        'A: cannot be split into words: No closing quotation; got "quickstart \'a"; close the quotes\n',
    )
